"""Datasets: locate, verify, read, split, binarize."""
