"""Views at the edge, never in the hot path."""
