"""Voxels land in their cells, on a map that is empty elsewhere."""

from __future__ import annotations

import pytest
import torch

from perception.ops.bev_map import bev_map


@pytest.mark.parametrize("learning", [False, True], ids=["inference", "training"])
def test_each_voxel_lands_in_its_row_and_column_of_its_sample(learning: bool) -> None:
    coords = torch.tensor([[0, 0, 1, 2], [2, 0, 0, 0]], dtype=torch.int32)
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=learning)
    found = bev_map(x, coords, batch=3, rows=2, columns=4)
    assert found.shape == (3, 2, 2, 4)
    assert found[0, :, 1, 2].tolist() == [1, 2]
    assert found[2, :, 0, 0].tolist() == [3, 4]
    assert found.sum() == 10
    if learning:
        found.sum().backward()  # type: ignore[no-untyped-call]
        assert x.grad is not None
        assert x.grad.tolist() == [[1, 1], [1, 1]]


def test_without_a_voxel_the_map_is_empty() -> None:
    found = bev_map(torch.zeros(0, 5), torch.zeros(0, 4, dtype=torch.int32), batch=1, rows=3, columns=2)
    assert found.shape == (1, 5, 3, 2)
    assert not found.any()
