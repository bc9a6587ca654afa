"""Predictions over REST: shapes, problems and metrics, the same wherever a prediction is asked for."""
