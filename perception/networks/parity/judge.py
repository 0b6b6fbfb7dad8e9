"""Judge our outputs against a parity case, by the rule that everybody who holds the case uses.

Required outputs decide; inner stages are compared where they are given, to find where two implementations part.

floats    |ours - published| <= 1e-3 |published| + max(3e-4 std(published), 10 x float32 noise of the case, 1e-6)
integers  equal
masks     `out_pred`: at least 99.9 % of the pixels equal
boxes     as a set, per sample and label: same count, score within 1e-3, box within 1e-3 |published| + 2e-3,
          heading modulo 2 pi
queries   of DeepInteraction++: brought into the same order by label and cell, then compared as floats

`half` is for engines below float32: floats within 0.02 (|published| + std), masks 99 %, boxes within 0.1 m or 2 % and
0.02 in score, and 2 % of them may be missing or extra.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Arrays: TypeAlias = Mapping[str, NDArray[Any]]

REQUIRED = {
    "ddrnet": r"out_(logits|pred)$",
    "p2at": r"out_(final_seg_head|pred)$",
    "estf": r"out_(frame_inds|backbone|cls_score|prob|frames_bgr)$",
    "dsvt": r"out_(bev_features|head_.*|pcdet_(boxes|scores|labels|num)|boxes|scores|labels|num)$",
    "flatformer": r"out_(neck|head_.*|boxes|scores|labels|num)$",
    "deepinteraction": r"out_(?!decode_head|decoder0|on_|i2p|p2i|img_self|pts_self|img_block0|pts_block0|depth_sparse"
    r"|middle|query_pos|voxel_|pillar_).*",
    "egoposeformer": r"out_(heatmap.*|proposal|pred\d|final_.*|anchor_.*|valid_.*)$",
}
"""Network -> pattern of the outputs that decide."""

_BOX_OUTPUT = re.compile(r"out_(pcdet_)?(boxes|scores|labels|num)$")
_PLAIN_BOXES = ("out_boxes", "out_scores", "out_labels", "out_num")


@dataclass(frozen=True)
class Row:
    """One compared output."""

    name: str
    required: bool
    passed: bool
    worst: float
    """Largest error over its tolerance: up to 1 passes; infinite where it cannot be compared."""


def judge(model: str, notes: Mapping[str, Any], published: Arrays, ours: Arrays, half: bool = False) -> list[Row]:
    """Compare `ours` with `published`, a row an output (a row for a whole set of boxes)."""
    names = [name for name in published if name.startswith("out_")]
    needed = required_outputs(model, names)
    if model == "deepinteraction":
        ours = _queries_aligned(ours, published)
    rows: list[Row] = []
    judged_sets: set[str] = set()
    for name in names:
        if match := _BOX_OUTPUT.match(name):
            prefix = "out_" + (match.group(1) or "")
            if prefix not in judged_sets:
                judged_sets.add(prefix)
                rows.extend(_judge_boxes(prefix, prefix + "boxes" in needed, published, ours, half))
        elif name in ours:
            passed, worst = _judge_array(name, published[name], ours[name], _noise(notes, name), half)
            rows.append(Row(name, name in needed or _is_mask(name, published, ours), passed, worst))
        elif name in needed:
            rows.append(Row(f"{name} (missing)", True, False, math.inf))
    return rows


def passes(rows: list[Row]) -> bool:
    """Whether at least one output was required, and none of those failed."""
    needed = [row for row in rows if row.required]
    return bool(needed) and all(row.passed for row in needed)


def required_outputs(model: str, names: list[str]) -> set[str]:
    """Return the outputs that decide.

    A DSVT case of Waymo stores the boxes of both NMS conventions: there the corrected one (`out_pcdet_*`) decides.
    """
    pattern = re.compile(REQUIRED[model])
    chosen = [name for name in names if pattern.match(name)]
    if any(name.startswith("out_pcdet_") for name in chosen):
        chosen = [name for name in chosen if name not in _PLAIN_BOXES]
    return set(chosen or names)


def _is_mask(name: str, published: Arrays, ours: Arrays) -> bool:
    return name == "out_pred" and ours[name].shape == published[name].shape


def _noise(notes: Mapping[str, Any], name: str) -> float:
    value = (notes.get("float32_noise") or {}).get(name)
    return float(value.get("max_abs", 0.0)) if isinstance(value, Mapping) else 0.0


def _judge_array(
    name: str, published: NDArray[Any], ours: NDArray[Any], noise: float, half: bool
) -> tuple[bool, float]:
    if ours.shape != published.shape:
        return False, math.inf
    if name == "out_pred":
        agreement, bound = float((ours == published).mean()), 0.99 if half else 0.999
        return agreement >= bound, (1 - agreement) / (1 - bound)
    if published.dtype.kind in "iub":
        same = bool(np.array_equal(ours, published))
        return same, 0.0 if same else math.inf
    return _judge_floats(published.astype(np.float64), ours.astype(np.float64), noise, half)


def _judge_floats(
    published: NDArray[np.float64], ours: NDArray[np.float64], noise: float, half: bool
) -> tuple[bool, float]:
    finite = np.isfinite(published)
    if not np.array_equal(finite, np.isfinite(ours)):
        return False, math.inf
    if not finite.any():
        return True, 0.0
    expected, error = published[finite], np.abs(ours - published, where=finite, out=np.zeros_like(ours))[finite]
    spread = float(expected.std())
    if half:
        bound = 0.02 * (np.abs(expected) + spread) + 1e-6
    else:
        bound = 1e-3 * np.abs(expected) + max(3e-4 * spread, 10 * noise, 1e-6)
    worst = float((error / bound).max())
    return worst <= 1, worst


def _judge_boxes(prefix: str, needed: bool, published: Arrays, ours: Arrays, half: bool) -> list[Row]:
    if all(prefix + key in ours for key in ("boxes", "scores", "labels")):
        passed, worst = _compare_box_sets(prefix, published, ours, half)
        return [Row(f"{prefix}boxes (set)", needed, passed, worst)]
    return [Row(f"{prefix}boxes (missing)", True, False, math.inf)] if needed else []


def _compare_box_sets(prefix: str, published: Arrays, ours: Arrays, half: bool) -> tuple[bool, float]:
    counts, counts_ours = _counts(prefix, published), _counts(prefix, ours)
    slack = math.ceil(0.02 * counts.sum()) if half else 0
    if len(counts_ours) != len(counts) or np.abs(counts_ours - counts).sum() > slack:
        return False, math.inf
    if counts_ours.sum() != len(ours[prefix + "boxes"]):
        return False, math.inf
    missed, worst, start, start_ours = 0, 0.0, 0, 0
    for count, count_ours in zip(counts, counts_ours, strict=True):
        sample = {key: published[prefix + key][start : start + count] for key in ("boxes", "scores", "labels")}
        given = {key: ours[prefix + key][start_ours : start_ours + count_ours] for key in ("boxes", "scores", "labels")}
        start, start_ours = start + count, start_ours + count_ours
        ratios = nearest_box_errors(sample, given, half)
        missed += sum(ratio > 1 for ratio in ratios)
        worst = max([worst, *ratios])
    return missed <= slack, worst


def _counts(prefix: str, arrays: Arrays) -> NDArray[np.int64]:
    counts = arrays.get(prefix + "num", np.array([len(arrays[prefix + "boxes"])]))
    return np.atleast_1d(counts).astype(np.int64)


def nearest_box_errors(published: Arrays, ours: Arrays, half: bool) -> list[float]:
    """For every published box of one sample the error over tolerance of the nearest free box of ours."""
    relative, absolute, score_bound = (0.02, 0.1, 0.02) if half else (1e-3, 2e-3, 1e-3)
    free = np.ones(len(ours["boxes"]), bool)
    ratios: list[float] = []
    for box, score, label in zip(published["boxes"], published["scores"], published["labels"], strict=True):
        error = np.abs(ours["boxes"] - box)
        error[:, 6] = np.abs((ours["boxes"][:, 6] - box[6] + np.pi) % (2 * np.pi) - np.pi)
        ratio = (error / (relative * np.abs(box) + absolute)).max(1, initial=0)
        ratio = np.maximum(ratio, np.abs(ours["scores"] - score) / score_bound)
        ratio[~free | (ours["labels"] != label)] = np.inf
        best = int(ratio.argmin()) if len(ratio) else -1
        ratios.append(float(ratio[best]) if best >= 0 else math.inf)
        if ratios[-1] <= 1:
            free[best] = False
    return ratios


def _queries_aligned(ours: Arrays, published: Arrays) -> Arrays:
    """Bring our queries (last axis, a block per decoder layer) into the published order, by label and cell."""
    labels, cells = "out_query_labels", "out_query_pos"
    if any(key not in arrays for key in (labels, cells) for arrays in (ours, published)):
        return ours
    batch, count = published[labels].shape
    order = np.tile(np.arange(count), (batch, 1))
    for sample in range(batch):
        place = {key: index for index, key in enumerate(_query_keys(ours[labels][sample], ours[cells][sample]))}
        found = [place.get(key, -1) for key in _query_keys(published[labels][sample], published[cells][sample])]
        if -1 in found:
            return ours
        order[sample] = found
    aligned = dict(ours)
    for name, array in ours.items():
        if name.startswith(("out_boxes", "out_scores", "out_labels")) or array.ndim < 2 or len(array) != batch:
            continue
        if name == cells:
            aligned[name] = np.stack([array[sample][order[sample]] for sample in range(batch)])
        elif array.shape[-1] in (count, 4 * count):
            blocks = np.arange(array.shape[-1] // count) * count
            index = (blocks[None, :, None] + order[:, None, :]).reshape(batch, -1)
            aligned[name] = np.stack([array[sample][..., index[sample]] for sample in range(batch)])
    return aligned


def _query_keys(labels: NDArray[Any], cells: NDArray[Any]) -> list[tuple[Any, ...]]:
    return [(int(label), *np.round(cell, 3)) for label, cell in zip(labels, cells, strict=True)]
