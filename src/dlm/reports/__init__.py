"""HTML pages: the data report and insight."""
