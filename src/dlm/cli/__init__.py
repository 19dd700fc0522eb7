"""The command line: argv to command to text, and the only package that prints."""
