"""Teach a language model to hear."""
