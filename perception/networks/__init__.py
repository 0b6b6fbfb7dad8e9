"""The seven published networks, their layers, weights, cards and parity adapters."""
