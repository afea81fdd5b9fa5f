"""Measuring a trained model. Torch only."""
