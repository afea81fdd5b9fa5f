"""Files, errors, signals, progress and tables: what stands between a command and the machine."""
