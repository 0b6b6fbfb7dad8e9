"""Least squares of a few shared numbers and many groups with numbers of their own: the core of every calibration.

Levenberg-Marquardt on normal equations; each group's own numbers (the pose of a board) are eliminated first, so that a
hundred views cost no more than the shared numbers do (Triggs et al., "Bundle adjustment: a modern synthesis", 1999).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from perception.errors import GeometryError
from perception.geometry.transforms import Transform, quaternion_of

Float: TypeAlias = NDArray[np.float64]
State = TypeVar("State")


@dataclass(frozen=True)
class Block:
    """The errors of one group, linearised.

    Attributes:
        residual: (N,) whitened: of deviation 1 where the noise is known, else in one unit.
        by_shared: (N, S) derivative by the shared numbers.
        by_own: (N, O) derivative by the group's own numbers; O may be 0.
    """

    residual: Float
    by_shared: Float
    by_own: Float


@dataclass(frozen=True)
class Solution(Generic[State]):
    """What was found.

    Attributes:
        state: the best state.
        rms: root mean square of all residuals, as given.
        covariance: (S, S) of the shared numbers, from the residuals' own spread.
        iterations: steps taken.
    """

    state: State
    rms: float
    covariance: Float
    iterations: int

    @property
    def deviation(self) -> Float:
        """(S,) standard deviations of the shared numbers."""
        return np.sqrt(np.maximum(np.diag(self.covariance), 0.0))


def solve(
    state: State,
    blocks: Callable[[State], Sequence[Block]],
    moved: Callable[[State, Float, list[Float]], State],
    *,
    robust: float | None = None,
    pairs: bool = False,
    iterations: int = 60,
) -> Solution[State]:
    """Minimise the sum of squared residuals.

    Args:
        state: where to begin.
        blocks: errors and derivatives at a state; a GeometryError of it means that the state cannot be.
        moved: a state changed by shared numbers (S,) and each group's own (O,).
        robust: beyond this size a residual counts by its size only (Huber); None takes squares of all.
        pairs: residuals come in twos (u, v) that are weighed together.
        iterations: at most so many steps.

    Raises:
        GeometryError: the first state cannot be, or there are fewer residuals than unknowns.
    """
    current = blocks(state)
    cost, damping, taken = _cost(current, robust, pairs), 1e-3, 0
    for _ in range(iterations):
        system = _Normal.of(current, robust, pairs)
        stepped = False
        while damping < 1e12:
            shared, own = system.step(damping)
            try:
                candidate = moved(state, shared, own)
                following = blocks(candidate)
                new_cost = _cost(following, robust, pairs)
            except GeometryError:
                new_cost = np.inf
            if new_cost < cost:
                gained = (cost - new_cost) / max(cost, 1e-300)
                state, current, cost, stepped = candidate, following, new_cost, True
                damping = max(damping / 10, 1e-12)
                taken += 1
                break
            damping *= 10
        if not stepped or gained < 1e-10:
            break
    return _finished(state, current, robust, pairs, taken)


def _finished(state: State, current: Sequence[Block], robust: float | None, pairs: bool, taken: int) -> Solution[State]:
    residual = np.concatenate([block.residual for block in current])
    unknowns = current[0].by_shared.shape[1] + sum(block.by_own.shape[1] for block in current)
    if len(residual) <= unknowns:
        raise GeometryError(f"{len(residual)} measurements for {unknowns} unknowns: more views are needed")
    weights = np.concatenate([_weights(block.residual, robust, pairs) for block in current])
    variance = float((weights * residual**2).sum() / (len(residual) - unknowns))
    covariance: Float = variance * _inverse(_Normal.of(current, robust, pairs).reduced(0.0)[0])
    rms = float(np.sqrt((residual**2).mean() * (2 if pairs else 1)))
    return Solution(state, rms, covariance, taken)


@dataclass(frozen=True)
class _Normal:
    """Normal equations with the blocks of the groups kept apart."""

    shared: Float
    shared_goal: Float
    mixed: list[Float]
    own: list[Float]
    own_goal: list[Float]

    @classmethod
    def of(cls, blocks: Sequence[Block], robust: float | None, pairs: bool) -> _Normal:
        count = blocks[0].by_shared.shape[1]
        shared, goal = np.zeros((count, count)), np.zeros(count)
        mixed, own, own_goal = [], [], []
        for block in blocks:
            weight = _weights(block.residual, robust, pairs)[:, None]
            weighted_shared, weighted_own = weight * block.by_shared, weight * block.by_own
            shared += block.by_shared.T @ weighted_shared
            goal -= weighted_shared.T @ block.residual
            mixed.append(weighted_shared.T @ block.by_own)
            own.append(block.by_own.T @ weighted_own)
            own_goal.append(-weighted_own.T @ block.residual)
        return cls(shared, goal, mixed, own, own_goal)

    def reduced(self, damping: float) -> tuple[Float, Float, list[Float]]:
        """Return the shared equations once the groups' own numbers are eliminated, and the inverses that did it."""
        matrix, goal = self.shared + damping * np.diag(np.diag(self.shared) + 1e-12), self.shared_goal.copy()
        inverses = []
        for mixed, own, own_goal in zip(self.mixed, self.own, self.own_goal, strict=True):
            inverse = _inverse(own + damping * np.diag(np.diag(own) + 1e-12))
            matrix -= mixed @ inverse @ mixed.T
            goal -= mixed @ (inverse @ own_goal)
            inverses.append(inverse)
        return matrix, goal, inverses

    def step(self, damping: float) -> tuple[Float, list[Float]]:
        matrix, goal, inverses = self.reduced(damping)
        shared = np.asarray(np.linalg.lstsq(matrix, goal, rcond=None)[0] if len(goal) else goal, np.float64)
        own = [
            inverse @ (own_goal - mixed.T @ shared)
            for inverse, own_goal, mixed in zip(inverses, self.own_goal, self.mixed, strict=True)
        ]
        return shared, own


def _inverse(matrix: Float) -> Float:
    return np.asarray(np.linalg.pinv(matrix, hermitian=True), np.float64)


def _weights(residual: Float, robust: float | None, pairs: bool) -> Float:
    if robust is None:
        return np.ones_like(residual)
    size = np.abs(residual)
    if pairs:
        size = np.repeat(np.hypot(residual[0::2], residual[1::2]), 2)
    return np.where(size > robust, robust / np.maximum(size, 1e-300), 1.0)


def _cost(blocks: Sequence[Block], robust: float | None, pairs: bool) -> float:
    total = 0.0
    for block in blocks:
        if robust is None:
            total += float((block.residual**2).sum())
            continue
        size = np.hypot(block.residual[0::2], block.residual[1::2]) if pairs else np.abs(block.residual)
        total += float(np.where(size > robust, robust * (2 * size - robust), size**2).sum())
    return total if np.isfinite(total) else np.inf


def turned(transform: Transform, step: Float) -> Transform:
    """Return a_from_b after a small motion in a: rotation vector, then translation (6,)."""
    angle = float(np.linalg.norm(step[:3]))
    if angle > 1e-15:
        turn = np.array([*(np.sin(angle / 2) * step[:3] / angle), np.cos(angle / 2)])
    else:
        turn = np.array([0.0, 0.0, 0.0, 1.0])
    return Transform.from_quaternion(step[3:], turn) @ transform


def by_motion(points: Float) -> Float:
    """Return the derivative (N, 3, 6) of points in a by the small motion of `turned`."""
    out = np.zeros((len(points), 3, 6))
    x, y, z = points.T
    out[:, 0, 1], out[:, 0, 2] = z, -y
    out[:, 1, 0], out[:, 1, 2] = -z, x
    out[:, 2, 0], out[:, 2, 1] = y, -x
    out[:, 0, 3] = out[:, 1, 4] = out[:, 2, 5] = 1.0
    return out


def transform_of(rotation: Float, translation: Float) -> Transform:
    """Return the transform of the rotation nearest to a matrix (3, 3), and a translation (3,)."""
    u, _, vt = np.linalg.svd(rotation)
    proper = u @ np.diag([1.0, 1.0, float(np.linalg.det(u @ vt))]) @ vt
    return Transform(np.array(translation, np.float64), quaternion_of(proper))


__all__ = ["Block", "Solution", "by_motion", "solve", "transform_of", "turned"]
