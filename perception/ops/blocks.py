"""Row-wise work in blocks, so that what it makes on the way stays small.

A layer that turns every row into many numbers (a feed-forward network, an attention over many samples) allocates its
intermediate results for all rows at once. On a CPU such large buffers are mapped and cleared by the system each time,
which costs as much as the arithmetic (measured: half of the time of the interaction encoder); in blocks they stay in
cache, and the peak memory falls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

HOST_ROWS = 2048
"""Rows that a feed-forward network on a host takes at a time, where nothing is learned: few enough to stay in a core's
own cache with all that it makes of them, many enough that what begins a step does not count.
"""


def in_blocks(function: Callable[..., Tensor], tensors: Sequence[Tensor], rows: int) -> Tensor:
    """Return function(*tensors), worked out for `rows` rows at a time.

    The result must depend row by row (first axis) on the tensors. On a GPU, and while a graph is exported, the function
    is called once: there neither reason holds.
    """
    first = tensors[0]
    if torch.compiler.is_exporting() or first.is_cuda or first.shape[0] <= rows:
        return function(*tensors)
    return torch.cat([function(*block) for block in zip(*(torch.split(x, rows) for x in tensors), strict=True)])
