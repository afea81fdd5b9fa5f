"""Files, errors, signals, progress and tables for the command line."""
