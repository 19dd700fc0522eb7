"""HTML pages: the data report of `dlm check`, and the insight page of a version."""
