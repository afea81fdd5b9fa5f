"""Optimizers as the configuration names them, one file each."""
