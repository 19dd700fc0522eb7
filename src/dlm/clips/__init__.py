"""What the document points at."""
