"""The plan of a run: model specs, memory, batches, schedule, before the first step."""
