"""Figures of a model, its training and its measurements."""
