"""Transcription, prompting, evaluation and metrics."""
