"""Typed records: what sensors, networks and planners exchange, and its bytes."""
