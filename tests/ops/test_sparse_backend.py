"""Both implementations of sparse convolution against dense convolution, and against each other."""

from __future__ import annotations

import importlib.util
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from perception.errors import EngineError
from perception.networks.layers.sparse_encoder import SparseEncoder, SparseEncoderConfig, sparse_tables
from perception.networks.weights import fill
from perception.ops.sparse_backend import SparseBackend, SparseName, sparse_backend
from tests.threads import threads_of_torch

SHAPE = (9, 12, 14)
INSTALLED = importlib.util.find_spec("spconv") is not None
NEEDS_SPCONV = pytest.mark.skipif(not INSTALLED, reason="spconv is not installed (pip install spconv, CPU)")
BACKENDS = ["own", pytest.param("spconv", marks=NEEDS_SPCONV)]


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> SparseBackend:
    return sparse_backend(request.param)


def voxels(seed: int, share: float = 0.1) -> tuple[Tensor, NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    cells = np.argwhere(rng.random((2, *SHAPE)) < share)
    cells = cells[rng.permutation(len(cells))]
    return torch.from_numpy(rng.standard_normal((len(cells), 4), np.float32)), cells


def dense(features: Tensor, cells: NDArray[np.int64]) -> Tensor:
    volume = torch.zeros(2, *SHAPE, features.shape[1])
    volume[tuple(torch.from_numpy(cells.T))] = features
    return volume.permute(0, 4, 1, 2, 3)


def weight(*kernel: int) -> Tensor:
    return torch.randn(*kernel, 4, 6, generator=torch.Generator().manual_seed(7))


def test_a_submanifold_convolution_is_the_dense_one_at_the_occupied_cells(backend: SparseBackend) -> None:
    features, cells = voxels(1)
    kernel = weight(3, 3, 3)
    ours = backend.dense(backend.submanifold(backend.voxels(features, cells, SHAPE, 2), kernel))
    reference = F.conv3d(dense(features, cells), kernel.permute(4, 3, 0, 1, 2), padding=1)
    torch.testing.assert_close(ours, reference * dense(torch.ones(len(cells), 1), cells), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding"),
    [((3, 3, 3), (2, 2, 2), (1, 1, 1)), ((3, 3, 3), (2, 2, 2), (0, 1, 1)), ((3, 1, 1), (2, 1, 1), (0, 0, 0))],
)
def test_a_strided_convolution_is_the_dense_one(
    backend: SparseBackend, kernel: tuple[int, int, int], stride: tuple[int, int, int], padding: tuple[int, int, int]
) -> None:
    features, cells = voxels(2)
    ours = backend.dense(backend.strided(backend.voxels(features, cells, SHAPE, 2), weight(*kernel), stride, padding))
    reference = F.conv3d(dense(features, cells), weight(*kernel).permute(4, 3, 0, 1, 2), stride=stride, padding=padding)
    torch.testing.assert_close(ours, reference, rtol=1e-4, atol=1e-5)


def test_the_encoder_on_a_backend_is_the_encoder_on_tables(backend: SparseBackend) -> None:
    config = SparseEncoderConfig((41, 64, 48), 5, (8, 16, 16, 16), out_channels=16)
    encoder = SparseEncoder(config).eval()
    fill(encoder)
    rng = np.random.default_rng(3)
    cells = np.argwhere(rng.random((2, *config.grid)) < 0.01)
    features = torch.from_numpy(rng.standard_normal((len(cells), 5), np.float32))
    tables = sparse_tables(cells, config, 2)
    with torch.no_grad():
        expected = encoder(features[tables.order], tables.dense, tables.same, tables.down)
        torch.testing.assert_close(encoder.encode(features, cells, 2, backend), expected, rtol=1e-4, atol=1e-4)


def test_a_backend_serves_clouds_one_after_the_other(backend: SparseBackend) -> None:
    kernel = weight(3, 3, 3)
    for seed in (4, 5):
        features, cells = voxels(seed)
        ours = backend.dense(backend.submanifold(backend.voxels(features, cells, SHAPE, 2), kernel))
        reference = F.conv3d(dense(features, cells), kernel.permute(4, 3, 0, 1, 2), padding=1)
        torch.testing.assert_close(ours, reference * dense(torch.ones(len(cells), 1), cells), rtol=1e-4, atol=1e-5)


def test_the_result_does_not_depend_on_the_number_of_threads(backend: SparseBackend) -> None:
    rng = np.random.default_rng(6)
    cells = np.argwhere(rng.random((1, 20, 40, 40)) < 0.1)
    features = torch.from_numpy(rng.standard_normal((len(cells), 4), np.float32))
    found = []
    for threads in (1, 2):
        with threads_of_torch(threads):
            made = backend.voxels(features, cells, (20, 40, 40), 1)
            found.append(backend.dense(backend.submanifold(made, weight(3, 3, 3))))
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)


def test_without_spconv_the_message_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spconv", None)
    monkeypatch.setitem(sys.modules, "spconv.pytorch", None)
    name: SparseName = "spconv"
    with pytest.raises(EngineError, match="sparse_convolution: own needs nothing"):
        sparse_backend(name)
