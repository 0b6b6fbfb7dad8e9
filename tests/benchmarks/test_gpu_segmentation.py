"""The benchmark for GPUs, at a tiny size on a CPU: every network passes its own check against float32."""

from __future__ import annotations

import math

import pytest
import torch

from perception.benchmarks.gpu_segmentation import NETWORKS, main, pixels_that_agree, relative_error


@pytest.mark.parametrize("name", ["DDRNet compact", "P2AT compact"])
def test_half_precision_is_compared_with_float32_before_it_is_timed(name: str) -> None:
    rows = main(["--device", "cpu", "--height", "64", "--width", "96", "--rounds", "1", "--only", name])
    assert [row.what for row in rows] == ["logits", "mask"]
    assert all(0 < row.logits_error <= 1 for row in rows)
    assert all(row.fps == pytest.approx(1000 / row.median_ms) for row in rows)


def test_every_published_variant_is_measured() -> None:
    assert {"DDRNet-23-slim", "DDRNet-23", "DDRNet-39", "P2AT-S", "P2AT-M", "P2AT-L"} <= set(NETWORKS)


def test_logits_beyond_the_range_of_half_precision_are_no_agreement() -> None:
    reference = torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]])
    assert math.isinf(relative_error(reference * math.inf, reference))
    assert relative_error(reference, reference) == 0
    assert pixels_that_agree(reference.flip(1), reference) == 0
