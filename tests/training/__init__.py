"""Training: targets, losses, samples."""
