"""Measuring a trained model. Torch only; every function takes a model and binary images."""
