"""Trackers as the configuration names them, and the metrics.csv of a run folder."""
