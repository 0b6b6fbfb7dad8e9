"""What nodes with networks say of their outputs."""

UNTRAINED = "untrained weights: the output means nothing"
