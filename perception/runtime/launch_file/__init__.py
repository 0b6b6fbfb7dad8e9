"""Launch files: what a person writes, every fault that it can have, and the checked graph that it becomes."""
