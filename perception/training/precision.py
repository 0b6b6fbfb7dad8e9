"""In what training computes its convolutions: never what the file is meant to hold, only how long it takes."""

from __future__ import annotations

import torch

from perception.ops.processor import MULTIPLIES_BFLOAT16


def convolutions(device: torch.device) -> torch.autocast:
    """Return a context in which convolutions and products of matrices are in bfloat16 where that is the faster way.

    It halves a step where the processor multiplies bfloat16. Where it does not, a step takes longer than in float32
    (FlatFormer's nine times, with oneDNN kept to AVX2), which is taken then: more exact, and other last bits.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type != "cpu" or MULTIPLIES_BFLOAT16)


__all__ = ["convolutions"]
