"""Datasets: locate, verify, read, split; then binarize on the device."""
