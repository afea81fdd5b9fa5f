"""What commands need: files, locks, errors, signals, progress, tables."""
