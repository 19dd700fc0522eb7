"""Using a model: prompting, transcription, speech detection, evaluation and metrics."""
