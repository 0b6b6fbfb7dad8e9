"""Sparse convolution compiled for the host: products are added to the rows that they meet, without copies between.

Gathered, multiplied and added in three steps, the rows of a kernel position go through memory twice more than here, and
reading and adding them takes as long as the products. The sums are those of `ops.sparse_conv`, in the same order.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numba
import numpy as np
import torch
from torch import Tensor

from perception.ops.host_sampling import Floats, Places, in_threads
from perception.ops.vector_rows import LANES, ROWS, add_products

OUTPUTS, PAIRS = 1024, 8 * ROWS
"""Output rows that stay in a core's own cache while all kernel positions are added, and pairs whose input rows stay in
the nearest one while all output channels are.
"""


def convolved_on_host(
    features: Tensor, kernels: Tensor, outputs: Tensor, inputs: Tensor, begins: Tensor, rows: int
) -> Tensor:
    """Add up the products of input rows and kernels in the output rows that they meet.

    Args:
        features: (N, Cin) float32.
        kernels: (K, Cin, Cout) float32.
        outputs: (T,) int64, the output row of each pair, position by position, ascending within one.
        inputs: (T,) int64, the input row of each pair.
        begins: (K + 1,) int64, where the pairs of each position begin, and T.
        rows: M output rows.

    Returns:
        (M, Cout) float32.
    """
    positions, channels, out_channels = kernels.shape
    lanes = min(LANES, out_channels & -out_channels)  # a power of two, of which they are a multiple
    panels = kernels.reshape(positions, channels, -1, lanes).transpose(1, 2).contiguous().numpy()
    total, read = np.zeros((rows, out_channels), np.float32), features.contiguous().numpy()
    where, work = [x.contiguous().numpy() for x in (outputs, inputs, begins)], _convolution(lanes)
    in_threads(lambda some: work(total, read, panels, *where, some.start, some.stop), rows)
    return torch.from_numpy(total)


@lru_cache(maxsize=8)
def _convolution(lanes: int) -> Callable[..., None]:
    """Compile the products of kernels in panels of so many output channels, (K, Cout / lanes, Cin, lanes).

    In one function: what holds another compiled one in a closure is compiled anew by every process (see `vector_rows`).
    """

    @numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[untyped-decorator]
    def convolution(
        total: Floats, features: Floats, panels: Floats, outputs: Places, inputs: Places, begins: Places,
        low: int, high: int,
    ) -> None:  # fmt: skip
        width, channels = total.shape[1], features.shape[1]
        flat, read = total.reshape(-1), features.reshape(-1)
        targets, sources = np.empty(PAIRS, np.int64), np.empty(PAIRS, np.int64)
        for start in range(low, high, OUTPUTS):
            end = min(start + OUTPUTS, high)
            for position in range(len(panels)):
                own = outputs[begins[position] : begins[position + 1]]
                met = inputs[begins[position] : begins[position + 1]]
                first, last = int(np.searchsorted(own, start)), int(np.searchsorted(own, end))
                for pair in range(first, last, PAIRS):
                    count = min(PAIRS, last - pair)
                    whole = count // ROWS * ROWS
                    for i in range(count):
                        targets[i], sources[i] = own[pair + i] * width, met[pair + i] * channels
                    for panel in range(panels.shape[1]):
                        kernel = panels[position, panel].reshape(-1)
                        for i in range(0, whole, ROWS):
                            add_products(flat, targets, read, sources, 1, i, kernel, channels, ROWS, lanes)
                        for i in range(whole, count):
                            add_products(flat, targets, read, sources, 1, i, kernel, channels, 1, lanes)
                        for i in range(count):
                            targets[i] += lanes  # to where the next panel is added

    return convolution  # type: ignore[no-any-return]


__all__ = ["convolved_on_host"]
