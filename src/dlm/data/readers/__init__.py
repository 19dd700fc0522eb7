"""One reader for each format that sources are kept in."""
