"""Scores as pure functions of predictions and truth."""
