"""The command line: arguments and output only; each command calls the part that does the work."""
