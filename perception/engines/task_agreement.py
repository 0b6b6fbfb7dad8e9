"""Agreement of two engines in the terms of their task: boxes, masks, joints and classes that anybody would see.

What a part's outputs mean is read off their names, which all networks of one task share.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception.networks.parity.judge import nearest_box_errors

Arrays = Mapping[str, NDArray[Any]]

MOST_PEAKS = 100
"""Boxes per sample that are compared, the strongest of the reference."""
_CENTRES = ("center", "reg", "pred_center")
_HEATMAPS = ("hm", "heatmap", "pred_heatmap")
_SIZES = ("dim", "pred_dim")
_TURNS = ("rot", "pred_rot")


@dataclass(frozen=True)
class TaskFigure:
    """One figure of merit; `share` is 1 where both engines say the same."""

    name: str
    share: float
    least: float
    """Below it the engine is refused."""

    @property
    def passed(self) -> bool:
        return self.share >= self.least


def task_figures(got: Arrays, expected: Arrays, half: bool = False) -> list[TaskFigure]:
    """Compare an engine's outputs with the reference's.

    Args:
        got: the engine's outputs.
        expected: the reference's, of the same names and shapes.
        half: the bounds for engines below float32.

    Returns:
        "masks": share of pixels with the same class. "classes": share of samples with the same best class. "boxes":
        share of the reference's strongest boxes that the engine has at the same place, of the same class, within
        a tenth of a cell, 2 % of size and 0.02 rad. "joints": 1 - mean joint distance over the skeleton's extent.
        Empty where a part has none of these.
    """
    figures = []
    logits = expected.get("logits")
    if logits is not None and logits.ndim == 4:
        same = float((got["logits"].argmax(1) == logits.argmax(1)).mean())
        figures.append(TaskFigure("masks", same, 0.99 if half else 0.999))
    elif logits is not None and logits.ndim == 2:
        figures.append(TaskFigure("classes", _same_class(got["logits"], logits), 1.0))
    if (share := _boxes(got, expected)) is not None:
        figures.append(TaskFigure("boxes", share, 0.98 if half else 0.995))
    for name in ("poses", "proposal"):
        if name in expected and expected[name].shape[-1] == 3:
            figures.append(TaskFigure("joints", _joints(got[name], expected[name]), 0.99 if half else 0.999))
            break
    return figures


def found_boxes(got: Any, expected: Any) -> TaskFigure:
    """Return the share of the reference's strongest boxes that an engine below float32 finds, too.

    Args:
        got: `boxes` (N, 9), `scores` (N,) and `labels` (N,) of one sample, tensors on the host: the engine's.
        expected: the reference's.

    Returns:
        "boxes": the share, by the class `half` of the parity cases: of the same label, within 0.1 m or 2 %, and 0.02 in
        score.
    """
    ours, theirs = (
        {name: np.asarray(getattr(found, name)) for name in ("boxes", "scores", "labels")} for found in (got, expected)
    )
    strongest = np.argsort(-theirs["scores"], kind="stable")[:MOST_PEAKS]
    errors = nearest_box_errors({name: values[strongest] for name, values in theirs.items()}, ours, half=True)
    return TaskFigure("boxes", float(np.mean([error <= 1 for error in errors])) if errors else 1.0, 0.98)


def _same_class(got: NDArray[Any], expected: NDArray[Any]) -> float:
    """Count a sample as the same where the engine's best class is best, or all but ties with it, in the reference."""
    chosen = np.take_along_axis(expected, got.argmax(1)[:, None], 1)[:, 0]
    spread = expected.std(1) + 1e-12
    return float(((expected.max(1) - chosen) <= 0.02 * spread).mean())


def _boxes(got: Arrays, expected: Arrays) -> float | None:
    names = [next((name for name in kind if name in expected), None) for kind in (_HEATMAPS, _CENTRES, _SIZES, _TURNS)]
    if any(name is None for name in names):
        return None
    heat, *fields = (str(name) for name in names)
    flat = {name: (_flat(got[name]), _flat(expected[name])) for name in (heat, *fields)}  # (B, C, N) each
    matched, wanted = 0, 0
    for sample in range(len(expected[heat])):
        ours, theirs = (values[sample] for values in flat[heat])
        peaks = _strongest(expected[heat][sample])
        wanted += len(peaks[0])
        label, cell = peaks
        near = np.ones(len(cell), bool)
        for name, bound in zip(fields, (0.1, 0.02, 0.02), strict=True):  # cells; logarithm of size; sine and cosine
            mine, reference = (values[sample][:, cell] for values in flat[name])
            near &= (np.abs(mine - reference) <= bound * np.maximum(1, np.abs(reference))).all(0)
        near &= ours[:, cell].argmax(0) == theirs[:, cell].argmax(0)
        near &= np.abs(_sigmoid(ours[label, cell]) - _sigmoid(theirs[label, cell])) <= 0.02
        matched += int(near.sum())
    return matched / wanted if wanted else 1.0


def _strongest(heat: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return class and cell of the strongest local maxima of (K, rows, columns), or of queries (K, P)."""
    peak = heat
    if heat.ndim == 3:
        padded = np.pad(heat, ((0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
        around = [padded[:, 1 + y : 1 + y + heat.shape[1], 1 + x : 1 + x + heat.shape[2]]
                  for y in (-1, 0, 1) for x in (-1, 0, 1)]  # fmt: skip
        peak = np.where(heat >= np.max(around, axis=0), heat, -np.inf)
    flat = peak.reshape(len(heat), -1)
    best = np.argsort(flat, axis=None)[::-1][:MOST_PEAKS]
    label, cell = np.unravel_index(best[np.isfinite(flat.reshape(-1)[best])], flat.shape)
    return label, cell


def _joints(got: NDArray[Any], expected: NDArray[Any]) -> float:
    extent = float(np.linalg.norm(expected.reshape(-1, 3).std(0))) + 1e-12
    return 1 - float(np.linalg.norm(got - expected, axis=-1).mean()) / extent


def _flat(array: NDArray[Any]) -> NDArray[Any]:
    return array.reshape(*array.shape[:2], -1)


def _sigmoid(values: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(1 / (1 + np.exp(-np.clip(values, -50, 50))))
