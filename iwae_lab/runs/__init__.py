"""Runs, from the configuration to the record."""
