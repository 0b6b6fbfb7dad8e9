"""Sparse convolution behind one interface: our own, and spconv's where it is installed.

    backend = sparse_backend("own")
    x = backend.voxels(features, coordinates, (41, 1440, 1440), batch=1)
    x = backend.submanifold(x, weight)
    x = backend.strided(x, weight_below, (2, 2, 2), (1, 1, 1))
    volume = backend.dense(x)

Weights are (kD, kH, kW, Cin, Cout) for both, the layout of spconv 1.x. The order of rows is the backend's own; what is
made of them by position (a norm, an activation) keeps it, and `dense` does not depend on it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from perception.errors import EngineError
from perception.ops.sparse_conv import (
    Pairs,
    SparseGrid,
    Triple,
    kernel_pairs,
    kernel_table,
    sparse_conv,
    sparse_grid,
    strided_grid,
    submanifold_table,
)

SparseName: TypeAlias = Literal["own", "spconv"]


class Voxels(Protocol):
    """Occupied cells and their features, as a backend holds them."""

    @property
    def features(self) -> Tensor:
        """(N, C)."""


class SparseBackend(Protocol):
    """One implementation."""

    name: str

    def voxels(self, features: Tensor, coordinates: NDArray[np.integer[Any]], shape: Triple, batch: int) -> Any:
        """Take features (N, C) of cells (N, 4) sample, z, y, x in `batch` grids of D, H, W cells."""

    def submanifold(self, x: Any, weight: Tensor) -> Any:
        """Convolve; the output cells are the input cells."""

    def strided(self, x: Any, weight: Tensor, stride: Triple, padding: Triple) -> Any:
        """Convolve; the output cells are those whose kernel meets an input cell."""

    def with_features(self, x: Any, change: Callable[[Tensor], Tensor]) -> Any:
        """Change the features (N, C) to (N, C') row by row."""

    def dense(self, x: Any) -> Tensor:
        """Return (B, C, D, H, W), zeros where no cell is occupied."""


def sparse_backend(name: SparseName) -> SparseBackend:
    """Return a backend by name.

    Raises:
        EngineError: spconv is not installed.
    """
    return OwnBackend() if name == "own" else SpconvBackend()


@dataclass(frozen=True)
class _OwnVoxels:
    features: Tensor
    grid: SparseGrid
    known: dict[Triple, tuple[Tensor, Pairs]] = field(default_factory=dict)
    """Tables of submanifold kernels, worked out once per grid."""


class OwnBackend:
    """`ops.sparse_conv`."""

    name = "own"

    def voxels(self, features: Tensor, coordinates: NDArray[np.integer[Any]], shape: Triple, batch: int) -> _OwnVoxels:
        grid, order = sparse_grid(coordinates, shape, batch)
        return _OwnVoxels(features[torch.from_numpy(order)], grid)

    def submanifold(self, x: _OwnVoxels, weight: Tensor) -> _OwnVoxels:
        kernel = _kernel(weight)
        if kernel not in x.known:
            table = submanifold_table(x.grid, kernel)
            x.known[kernel] = (table, kernel_pairs(table, len(x.features)))
        return replace(x, features=sparse_conv(x.features, x.known[kernel][0], weight, x.known[kernel][1]))

    def strided(self, x: _OwnVoxels, weight: Tensor, stride: Triple, padding: Triple) -> _OwnVoxels:
        below = strided_grid(x.grid, _kernel(weight), stride, padding)
        table = kernel_table(x.grid, below, _kernel(weight), stride, padding)
        return _OwnVoxels(sparse_conv(x.features, table, weight), below)

    def with_features(self, x: _OwnVoxels, change: Callable[[Tensor], Tensor]) -> _OwnVoxels:
        return replace(x, features=change(x.features))

    def dense(self, x: _OwnVoxels) -> Tensor:
        cells = int(np.prod(x.grid.shape))
        volume = x.features.new_zeros(x.grid.batch * cells, x.features.shape[1])
        volume[torch.from_numpy(x.grid.cells)] = x.features
        return volume.reshape(x.grid.batch, *x.grid.shape, -1).permute(0, 4, 1, 2, 3)


class SpconvBackend:
    """spconv 2.x (Apache-2.0), on the device of the features; on a CPU it has one algorithm, `Native`.

    There it is run in one thread: with two, spconv 2.3.8 gives another result (measured: off by a quarter of the
    deviation), as if they added to the same rows at once.

    Raises:
        EngineError: it is not installed.
    """

    name = "spconv"

    def __init__(self) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what its own imports are told
                import spconv.pytorch as library
                from spconv.core import ConvAlgo
        except ImportError as error:
            raise EngineError(
                f"spconv cannot be used here ({error}); sparse_convolution: own needs nothing, or install spconv "
                "(CPU) or spconv-cu120 (GPU), not both"
            ) from error
        self._library, self._native = library, ConvAlgo.Native
        self._layers: dict[tuple[int, str], Any] = {}

    def voxels(self, features: Tensor, coordinates: NDArray[np.integer[Any]], shape: Triple, batch: int) -> Any:
        indices = torch.from_numpy(np.ascontiguousarray(coordinates, np.int32)).to(features.device)
        return self._library.SparseConvTensor(features.contiguous(), indices, list(shape), batch)

    def submanifold(self, x: Any, weight: Tensor) -> Any:
        kernel = _kernel(weight)
        key = f"same {x.spatial_shape} {kernel}"  # convolutions of one resolution and kernel share their pairs
        return self._convolved(self._layer(self._library.SubMConv3d, weight, key, indice_key=key), x)

    def strided(self, x: Any, weight: Tensor, stride: Triple, padding: Triple) -> Any:
        key = f"down {x.spatial_shape} {stride} {padding}"
        layer = self._layer(self._library.SparseConv3d, weight, key, stride=stride, padding=padding)
        return self._convolved(layer, x)

    def with_features(self, x: Any, change: Callable[[Tensor], Tensor]) -> Any:
        return x.replace_feature(change(x.features))

    def dense(self, x: Any) -> Tensor:
        volume = x.features.new_zeros(x.batch_size, *x.spatial_shape, x.features.shape[1])
        volume[x.indices.long().unbind(1)] = x.features  # its own `dense` indexes in a way that torch gives up
        return volume.permute(0, 4, 1, 2, 3)  # type: ignore[no-any-return]

    def _convolved(self, layer: Any, x: Any) -> Any:
        threads = torch.get_num_threads()
        torch.set_num_threads(threads if x.features.is_cuda else 1)
        try:
            return layer(x)
        finally:
            torch.set_num_threads(threads)

    def _layer(self, kind: Any, weight: Tensor, key: str, **more: Any) -> Any:
        known = self._layers.get((id(weight), key))
        if known is None:
            channels, out_channels = weight.shape[-2:]
            known = kind(channels, out_channels, list(_kernel(weight)), bias=False, algo=self._native, **more)
            known.weight = torch.nn.Parameter(weight.detach().permute(4, 0, 1, 2, 3).contiguous(), requires_grad=False)
            self._layers[id(weight), key] = known.eval()
        return known


def _kernel(weight: Tensor) -> Triple:
    return (weight.shape[0], weight.shape[1], weight.shape[2])


__all__ = ["OwnBackend", "SparseBackend", "SparseName", "SpconvBackend", "Voxels", "sparse_backend"]
