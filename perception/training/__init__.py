"""Loops and losses that made the bundled weights."""
