"""Every number, before the first step."""
