"""Voxelisation, scatter, sorting, matching and suppression: torch or numba, one reference each."""
