"""Speed, side by side with peers in one run: medians of interleaved rounds, and ratios. `perception bench runtime`."""
