"""Errors of body poses: MPJPE, PA-MPJPE, and the share of joints within a distance (PCK).

Source: Ionescu et al., "Human3.6M", PAMI 2014 (MPJPE); Mehta et al., "Monocular 3D Human Pose Estimation In The Wild",
3DV 2017 (PCK at 150 mm and the area under it from 0 to 150 mm); Umeyama, PAMI 1991 (the aligning similarity).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perception.errors import ShapeError
from perception.evaluation.track_frames import Float
from perception.ops.procrustes import similarity_aligned

PCK_MM = 150.0
_AUC_MM: Float = np.linspace(0.0, PCK_MM, 31)


@dataclass(frozen=True, eq=False)
class PoseScores:
    """Scores over all frames.

    Attributes:
        mpjpe_mm: the mean distance of joints.
        pa_mpjpe_mm: the same after each frame's best similarity transform (rotation, translation, scale).
        pck: the share of joints within 150 mm.
        auc: the mean of that share over 0, 5 ... 150 mm.
        by_joint_mm: (J,) the mean distance of each joint; NaN for one that is never valid.
        num_frames: frames with at least one valid joint.
    """

    mpjpe_mm: float
    pa_mpjpe_mm: float
    pck: float
    auc: float
    by_joint_mm: Float
    num_frames: int


def evaluate(truth_m: Float, results_m: Float, valid: NDArray[np.bool_] | None = None) -> PoseScores:
    """Score poses.

    Args:
        truth_m: (N, J, 3) joints in metres.
        results_m: (N, J, 3), in the same frame and order.
        valid: (N, J); joints that count. None: all. Aligning takes the frames that have three valid joints or more.

    Raises:
        ShapeError: the shapes differ, or a number of a valid joint is not finite.
    """
    if truth_m.ndim != 3 or truth_m.shape[2] != 3 or truth_m.shape != results_m.shape:
        raise ShapeError(f"joints {truth_m.shape} and {results_m.shape}; expected two arrays (N, J, 3) alike")
    counts = np.ones(truth_m.shape[:2], bool) if valid is None else np.asarray(valid, bool)
    if counts.shape != truth_m.shape[:2]:
        raise ShapeError(f"valid {counts.shape}; expected {truth_m.shape[:2]}")
    if not (np.isfinite(truth_m[counts]).all() and np.isfinite(results_m[counts]).all()):
        raise ShapeError("a joint that counts is not finite; mark it as not valid")
    apart = 1000.0 * np.linalg.norm(truth_m - results_m, axis=2)
    after = [
        1000.0 * np.linalg.norm(_laid_on(results[use], truth[use]) - truth[use], axis=1)
        for truth, results, use in zip(truth_m, results_m, counts, strict=True)
        if use.sum() >= 3
    ]
    errors = apart[counts]
    within = [float((errors <= limit).mean()) if len(errors) else float("nan") for limit in _AUC_MM]
    joints = [float(apart[use, j].mean()) if use.any() else float("nan") for j, use in enumerate(counts.T)]
    return PoseScores(
        mpjpe_mm=_mean(errors),
        pa_mpjpe_mm=_mean(np.concatenate(after) if after else np.empty(0)),
        pck=within[-1],
        auc=float(np.mean(within)),
        by_joint_mm=np.array(joints),
        num_frames=int(counts.any(axis=1).sum()),
    )


def _laid_on(results: Float, truth: Float) -> Float:
    collapsed = not np.ptp(results, axis=0).any()  # all joints in one place: the best that moving can do
    return np.broadcast_to(truth.mean(axis=0), truth.shape) if collapsed else similarity_aligned(results, truth)


def _mean(values: Float) -> float:
    return float(values.mean()) if len(values) else float("nan")


__all__ = ["PCK_MM", "PoseScores", "evaluate"]
