"""Training objectives, one per file. Adding one needs a file here (or anywhere importable) and a YAML."""
