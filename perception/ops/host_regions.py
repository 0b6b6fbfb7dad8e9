"""The sums of RoIAlign compiled for the host: samples are added where they lie, in place of making each of them.

`ops.roi_align` says where the samples lie and what they weigh, here as there.
"""

from __future__ import annotations

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from perception.ops.host_sampling import Floats, in_threads

Places = NDArray[np.int64]


def pooled_on_host(
    features: Tensor, rows: Tensor, columns: Tensor, row_weights: Tensor, column_weights: Tensor, size: int
) -> Tensor:
    """Pool each rectangle to size x size bins.

    Args:
        features: (M * H, W, C) floats, the maps one below the other.
        rows: (N, 2, S) int64, the rows beside each sample of a column of samples, S a multiple of `size`.
        columns: (N, 2, S) int64, the columns beside each sample of a row of samples.
        row_weights: (N, 2, S) of these rows.
        column_weights: (N, 2, S) of these columns.
        size: bins along each side.

    Returns:
        (N, size * size, C) float32, bins row by row.
    """
    total = np.zeros((len(rows), size * size, features.shape[2]), np.float32)
    read = features.float().contiguous().numpy()
    given = [x.contiguous().numpy() for x in (rows, columns, row_weights.float(), column_weights.float())]
    in_threads(lambda some: _pool(total[some], read, *(x[some] for x in given), size), len(total))
    return torch.from_numpy(total)


@numba.njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[untyped-decorator]
def _pool(
    total: Floats,
    features: Floats,
    rows: Places,
    columns: Places,
    row_weights: Floats,
    column_weights: Floats,
    size: int,
) -> None:
    samples = rows.shape[2] // size
    for region in range(len(total)):
        for i in range(rows.shape[2]):
            for j in range(rows.shape[2]):
                own = total[region, i // samples * size + j // samples]
                for corner in range(4):
                    beside, below = corner % 2, corner // 2
                    weight = row_weights[region, below, i] * column_weights[region, beside, j]
                    weight /= np.float32(samples * samples)
                    if weight == 0:
                        continue
                    there = features[rows[region, below, i], columns[region, beside, j]]
                    for channel in range(len(own)):
                        own[channel] += weight * there[channel]


__all__ = ["pooled_on_host"]
