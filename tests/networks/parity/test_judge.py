"""Our judge gives the verdict of the judge that comes with the cases, whatever the outputs look like."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from perception.networks.parity.judge import Row, judge, passes

DATA = os.environ.get("PERCEPTION_DATA")
needs_data = pytest.mark.skipif(DATA is None, reason="PERCEPTION_DATA is not set: the published judge is not here")
Outputs = dict[str, NDArray[Any]]


@pytest.fixture(scope="module")
def published_judge() -> ModuleType:
    assert DATA is not None
    spec = importlib.util.spec_from_file_location("compare", Path(DATA) / "golden" / "compare.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows_of_both(
    published_judge: ModuleType,
    model: str,
    want: Outputs,
    got: Outputs,
    *,
    half: bool,
    notes: dict[str, Any] | None = None,
) -> tuple[list[Row], list[Row]]:
    vars(published_judge)["HALF"] = half
    theirs = published_judge.judge({"model": model, **(notes or {})}, want, got)
    return judge(model, notes or {}, want, got, half), [Row(*row) for row in theirs]


@needs_data
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("case", sorted(Path(DATA or ".").glob("golden/*/*.json")), ids=lambda path: str(path.stem))
def test_real_cases_disturbed_at_every_scale_get_the_published_verdict(
    published_judge: ModuleType, case: Path, half: bool
) -> None:
    notes = json.loads(case.read_text())
    model = notes["model"].split("_")[0]
    with np.load(case.with_suffix(".npz")) as stored:
        want = {name: stored[name] for name in stored.files if name.startswith("out_")}
    random = np.random.default_rng(0)
    for scale in (0.0, 1e-4, 3e-3, 0.05):
        got = {name: _disturbed(array, scale, random) for name, array in want.items()}
        if scale == 3e-3:
            got.pop(random.choice(list(got)))
        ours, theirs = rows_of_both(published_judge, model, want, got, half=half, notes=notes)
        assert ours == theirs
    assert half or not passes(ours)


@needs_data
@given(data=st.data(), half=st.booleans())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_box_sets_of_any_count_get_the_published_verdict(
    published_judge: ModuleType, data: st.DataObject, half: bool
) -> None:
    random = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    want = _boxes(data.draw(st.lists(st.integers(0, 60), min_size=1, max_size=3)), random)
    got = {
        name: _disturbed(array, data.draw(st.sampled_from([0.0, 2e-4, 0.01])), random) for name, array in want.items()
    }
    order = random.permutation(len(got["out_boxes"])) if len(want["out_num"]) == 1 else np.arange(len(got["out_boxes"]))
    kept = order[: len(order) - data.draw(st.integers(0, min(2, len(order))))]
    for name in ("out_boxes", "out_scores", "out_labels"):
        got[name] = got[name][kept]
    if data.draw(st.booleans()):
        got["out_num"] = want["out_num"].copy()
        got["out_num"][-1] -= len(order) - len(kept)
    ours, theirs = rows_of_both(published_judge, "flatformer", want, got, half=half)
    assert ours == theirs


@needs_data
def test_queries_in_another_order_get_the_published_verdict(published_judge: ModuleType) -> None:
    random = np.random.default_rng(1)
    labels, cells = random.integers(0, 10, (2, 12)), random.permutation(24).reshape(2, 12)
    want: Outputs = {
        "out_query_labels": labels,
        "out_query_pos": np.stack([cells, cells + 0.5], -1).astype(np.float32),
        "out_heatmap": random.normal(size=(2, 3, 48)).astype(np.float32),
        "out_dense": random.normal(size=(2, 3, 7)).astype(np.float32),
    }
    order = random.permutation(12)
    blocks = np.concatenate([order + 12 * block for block in range(4)])
    got: Outputs = {
        "out_query_labels": labels[:, order],
        "out_query_pos": want["out_query_pos"][:, order],
        "out_heatmap": want["out_heatmap"][..., blocks],
        "out_dense": want["out_dense"],
    }
    ours, theirs = rows_of_both(published_judge, "deepinteraction", want, got, half=False)
    assert ours == theirs
    assert passes(ours)
    assert not passes(judge("deepinteraction", {}, want, got | {"out_heatmap": got["out_heatmap"][..., ::-1]}))


def test_an_error_of_exactly_the_tolerance_passes_and_one_above_it_fails() -> None:
    want = np.array([-1.0, 1.0] * 500)  # std is 1: the bound is 1e-3 + 3e-4
    for error, passed in ((1.29e-3, True), (1.31e-3, False)):
        got = want.copy()
        got[0] += error
        rows = judge("ddrnet", {}, {"out_logits": want}, {"out_logits": got})
        assert passes(rows) is passed
        assert rows[0].worst == pytest.approx(error / 1.3e-3)


def test_the_float32_noise_of_the_case_widens_the_tolerance() -> None:
    want, got = np.array([-1.0, 1.0] * 500), np.array([-1.0, 1.0] * 500) * 1.005
    noise = {"float32_noise": {"out_logits": {"max_abs": 4e-4}, "out_pred": {"differing_entries": 0}}}
    assert passes(judge("ddrnet", noise, {"out_logits": want}, {"out_logits": got}))
    assert not passes(judge("ddrnet", {}, {"out_logits": want}, {"out_logits": got}))


def test_a_mask_may_differ_in_one_pixel_of_a_thousand() -> None:
    want = np.zeros((1, 10, 100), np.uint8)
    for wrong, passed, passed_half in ((1, True, True), (2, False, True), (11, False, False)):
        got = want.copy()
        got.reshape(-1)[:wrong] = 1
        assert passes(judge("ddrnet", {}, {"out_pred": want}, {"out_pred": got})) is passed
        assert passes(judge("ddrnet", {}, {"out_pred": want}, {"out_pred": got}, half=True)) is passed_half


def test_a_missing_required_output_fails_and_a_missing_inner_stage_does_not() -> None:
    want = {"out_logits": np.ones(3), "out_spp": np.ones(3)}
    assert passes(judge("ddrnet", {}, want, {"out_logits": np.ones(3)}))
    assert not passes(judge("ddrnet", {}, want, {"out_spp": np.ones(3)}))


def test_a_heading_one_turn_away_is_the_same_heading() -> None:
    want = _boxes([5], np.random.default_rng(2))
    turned = want["out_boxes"].copy()
    turned[:, 6] += 2 * np.pi
    assert passes(judge("flatformer", {}, want, want | {"out_boxes": turned.astype(np.float64)}))
    turned[0, 6] += 0.1
    assert not passes(judge("flatformer", {}, want, want | {"out_boxes": turned}))


def _boxes(counts: list[int], random: np.random.Generator) -> Outputs:
    total = sum(counts)
    return {
        "out_boxes": random.uniform(-3, 3, (total, 7)),
        "out_scores": random.uniform(0, 1, total),
        "out_labels": random.integers(0, 2, total),
        "out_num": np.array(counts),
    }


def _disturbed(array: NDArray[Any], scale: float, random: np.random.Generator) -> NDArray[Any]:
    if array.dtype.kind == "f":
        return (array + scale * random.normal(size=array.shape)).astype(array.dtype)
    changed = array.copy()
    if scale and array.ndim >= 2:
        hit = random.random(array.shape) < scale / 10
        changed[hit] = changed[hit] + 1 if array.dtype.kind in "iu" else ~changed[hit]
    return changed
