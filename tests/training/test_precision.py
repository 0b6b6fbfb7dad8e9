"""In what training convolves: bfloat16 only where the processor multiplies it."""

from __future__ import annotations

import pytest
import torch

from perception.training import precision


@pytest.mark.parametrize(("multiplies", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_a_processor_that_does_not_multiply_bfloat16_convolves_in_float32(
    monkeypatch: pytest.MonkeyPatch, multiplies: bool, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(precision, "MULTIPLIES_BFLOAT16", multiplies)
    with precision.convolutions(torch.device("cpu")):
        found = torch.nn.functional.conv2d(torch.ones(1, 1, 3, 3), torch.ones(1, 1, 3, 3))
    assert found.dtype == dtype
    assert found.item() == 9.0
