"""What a list of objects says as a detector's word: columns for the tracker, of a table or of objects that came far."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from operator import attrgetter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from perception.messages import FusedObject
from perception.tracking.object_table import ObjectTable, TableObjects

NO_VELOCITY = (np.nan, np.nan, np.nan)


class SeenObjects(NamedTuple):
    """N objects.

    Attributes:
        names: that `label` refers to.
        label: (N,) the first class of each.
        score: (N,) the probability that it exists.
        center_m: (N, 3). size_lwh_m: (N, 3). yaw_rad: (N,).
        velocity_mps: (N, 2), NaN where it is not known.
        looks: names of what its points may be painted as.
        share: (N, C) of its points.
        num_points: (N,).
    """

    names: tuple[str, ...]
    label: NDArray[np.int64]
    score: NDArray[np.float64]
    center_m: NDArray[np.float64]
    size_lwh_m: NDArray[np.float64]
    yaw_rad: NDArray[np.float64]
    velocity_mps: NDArray[np.float64]
    looks: tuple[str, ...]
    share: NDArray[np.float64]
    num_points: NDArray[np.int64]


def seen_objects(objects: Sequence[FusedObject]) -> SeenObjects:
    """Return what objects say; each has a class."""
    if isinstance(objects, TableObjects):
        return _of_table(objects.table)
    said = [thing.classes[0].label for thing in objects]
    names = {name: number for number, name in enumerate(dict.fromkeys(said))}
    rotation = _numbers(map(attrgetter("rotation_xyzw"), objects), 4)
    looks = tuple(dict.fromkeys(one.label for thing in objects for one in thing.semantics))
    share = np.zeros((len(said), len(looks)))
    for row, thing in enumerate(objects):
        for one in thing.semantics:
            share[row, looks.index(one.label)] = one.probability
    return SeenObjects(
        tuple(names), np.array([*map(names.__getitem__, said)], np.int64),
        np.array([*map(attrgetter("existence_probability"), objects)], np.float64),
        _numbers(map(attrgetter("center_m"), objects), 3), _numbers(map(attrgetter("size_lwh_m"), objects), 3),
        2 * np.arctan2(rotation[:, 2], rotation[:, 3]),
        np.ascontiguousarray(_numbers([thing.velocity_mps or NO_VELOCITY for thing in objects], 3)[:, :2]),
        looks, share, np.array([*map(attrgetter("num_points"), objects)], np.int64),
    )  # fmt: skip


def _of_table(table: ObjectTable) -> SeenObjects:
    first = np.append(0, table.classes.ends)[:-1]
    return SeenObjects(
        table.classes.names, table.classes.column[first], table.existence_probability, table.center_m,
        table.size_lwh_m, table.yaw_rad, np.where(table.has_velocity[:, None], table.velocity_mps, np.nan),
        table.semantics.names, table.semantics.table(), table.num_points,
    )  # fmt: skip


def _numbers(rows: Iterable[Sequence[float]], columns: int) -> NDArray[np.float64]:
    """Return rows of numbers as (N, columns)."""
    return np.fromiter(chain.from_iterable(rows), np.float64).reshape(-1, columns)


__all__ = ["SeenObjects", "seen_objects"]
