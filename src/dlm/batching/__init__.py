"""Chat templates, bucketed and streamed batches, collation."""
