"""Exports: snapshots for transformers and peft, merged models, shards of features."""
