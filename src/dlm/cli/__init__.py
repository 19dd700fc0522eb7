"""The command line: argv to verb to text, and the only printer."""
