"""Row-wise work in blocks gives what the whole gives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from perception.ops.blocks import in_blocks


@pytest.mark.parametrize("rows", [1, 3, 7, 100])
def test_blocks_join_to_the_whole(rows: int) -> None:
    x, y = torch.randn(7, 4), torch.randn(7, 2, 4)

    def work(a: Tensor, b: Tensor) -> Tensor:
        return (a[:, None] * b).sum(1)

    torch.testing.assert_close(in_blocks(work, [x, y], rows), work(x, y))


def test_no_block_is_larger_than_asked() -> None:
    seen = []

    def work(a: Tensor) -> Tensor:
        seen.append(len(a))
        return a

    in_blocks(work, [torch.zeros(10, 2)], 4)
    assert seen == [4, 4, 2]
