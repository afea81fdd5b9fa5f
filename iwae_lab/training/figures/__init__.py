"""Figures of a model, of its training and of what was measured of it."""
