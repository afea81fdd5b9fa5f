"""Training objectives, one a file. Adding one needs a file here (or anywhere importable) and a YAML."""
