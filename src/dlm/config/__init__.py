"""The .dlm document: its schema, parser and editor."""
