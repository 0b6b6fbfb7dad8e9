"""bfloat16 in compiled code rounds and reads as torch does."""

from __future__ import annotations

import numba
import numpy as np
import torch

from perception.ops.small_floats import FloatsOrBits, floats_or_bits, narrowed, tensor_of, widened


@numba.njit  # type: ignore[untyped-decorator]
def copied(source: FloatsOrBits, target: FloatsOrBits) -> None:
    for i in range(len(source)):
        target[i] = narrowed(widened(source[i]), target)


def test_numbers_are_rounded_to_the_nearest_and_read_again_as_by_torch() -> None:
    random = torch.randn(1000, generator=torch.Generator().manual_seed(0)) * 10.0 ** torch.linspace(-38, 38, 1000)
    ties = torch.tensor([1 + 1 / 256, 1 + 3 / 256, -1 - 1 / 256, 0.0, -0.0, torch.inf, -torch.inf, 3.39e38, 1e-40])
    numbers = torch.cat([random, ties])
    bits = np.empty(len(numbers), np.uint16)
    copied(floats_or_bits(numbers), bits)
    assert torch.equal(tensor_of(bits), numbers.bfloat16())
    again = np.empty(len(numbers), np.float32)
    copied(floats_or_bits(tensor_of(bits)), again)
    assert torch.equal(tensor_of(again), numbers.bfloat16().float())


def test_what_is_no_number_stays_none() -> None:
    bits = np.empty(1, np.uint16)
    copied(np.array([np.nan], np.float32), bits)
    assert tensor_of(bits).isnan().all()
