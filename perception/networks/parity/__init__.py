"""One adapter per network: from a parity case to our outputs under the case's names."""
