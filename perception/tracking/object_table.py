"""The objects of a message as columns: they become Python objects only when somebody reads one.

To make two hundred objects takes longer than to track them, and most lists are only written, or read by the tracker,
which wants columns. A table stands in the message where the tuple does, and writes itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from typing import Any, Literal, NamedTuple, TypeAlias, cast, overload

import numpy as np
from numpy.typing import NDArray

from perception.messages import FusedObject, ObjectClass, ObjectMotion, PastPose, Skeleton
from perception.messages.covariance import pose_covariances, velocity_covariances
from perception.messages.grouping import grouped
from perception.messages.packed import Packed
from perception.tracking.class_lists import ClassLists
from perception.tracking.object_packing import packed_objects

Float: TypeAlias = NDArray[np.float64]
Int: TypeAlias = NDArray[np.int64]
Orientation: TypeAlias = Literal["unavailable", "sign_unknown", "available"]
ORIENTATIONS: tuple[Orientation, ...] = ("unavailable", "sign_unknown", "available")
AVAILABLE = ORIENTATIONS.index("available")
MOTIONS: tuple[Literal["straight", "turning"], ...] = ("straight", "turning")


class Motions(NamedTuple):
    """By what a client moves objects on; see `ObjectMotion`."""

    turns: NDArray[np.bool_]
    """(N,)."""
    yaw_rate_radps: Float
    """(N,), not looked at where an object is straight."""
    noise: Float
    """(N, 2) acceleration and turn noise."""
    covariance: Float
    """(N, 15)."""


class PastPoses(NamedTuple):
    """Where objects were, M places in all, oldest first."""

    t_ns: Int
    """(M,)."""
    place: Float
    """(3, M) x, y and yaw."""
    ends: Int
    """(N,) where those of each object end; those of the next one begin there."""

    def tuples(self) -> list[tuple[PastPose, ...]]:
        """Return them as messages hold them."""
        return grouped(map(PastPose, self.t_ns.tolist(), *self.place.tolist()), self.ends.tolist())


@dataclass(frozen=True, eq=False, kw_only=True)
class ObjectTable:
    """N objects. No array may change afterwards; names and units are those of `FusedObject`.

    Attributes:
        id: (N,).
        existence_probability: (N,).
        classes: of each.
        center_m: (N, 3).
        yaw_rad: (N,).
        size_lwh_m: (N, 3).
        orientation: (N,) index into `ORIENTATIONS`.
        velocity_mps: (N, 2), not looked at where it is not known.
        has_velocity: (N,).
        age_ns: (N,).
        last_seen_ns: (N,).
        source: (N,) index into `sources`, which holds the lists of sources that occur.
        semantics: of each.
        num_points: (N,).
        covariance_pose: (N, 7) xx, xy, x yaw, yy, y yaw, yaw yaw, zz.
        covariance_velocity: (N, 3) xx, xy, yy; where there is one, all velocities are known.
        motion: likewise.
        history, recognitions, skeletons: of each, where any is known.
    """

    id: Int
    existence_probability: Float
    classes: ClassLists
    center_m: Float
    yaw_rad: Float
    size_lwh_m: Float
    orientation: Int
    velocity_mps: Float
    has_velocity: NDArray[np.bool_]
    age_ns: Int
    last_seen_ns: Int
    source: Int
    sources: Sequence[tuple[str, ...]]
    semantics: ClassLists
    num_points: Int
    covariance_pose: Float | None = None
    covariance_velocity: Float | None = None
    motion: Motions | None = None
    history: PastPoses | None = None
    recognitions: Sequence[tuple[ObjectClass, ...]] | None = None
    skeletons: Sequence[Skeleton | None] | None = None

    def as_field(self) -> tuple[FusedObject, ...]:
        """Return the table as the value of a field that is declared a tuple: it is read and written like one."""
        return cast("tuple[FusedObject, ...]", TableObjects(self))

    def objects(self) -> tuple[FusedObject, ...]:
        """Return the objects."""
        known, half, rest = self.has_velocity.tolist(), self.yaw_rad / 2, repeat(0)
        fast = zip(*self.velocity_mps.T.tolist(), rest, strict=False)
        pose, spread = self.covariance_pose, self.covariance_velocity
        found = map(
            FusedObject,  # by position, column by column: to name the fields of each object takes twice as long
            self.id.tolist(),
            self.existence_probability.tolist(),
            self.classes.tuples(),
            zip(*self.center_m.T.tolist(), strict=True),
            zip(rest, rest, np.sin(half).tolist(), np.cos(half).tolist(), strict=False),
            zip(*self.size_lwh_m.T.tolist(), strict=True),
            map(ORIENTATIONS.__getitem__, self.orientation.tolist()),
            fast if all(known) else [one if said else None for one, said in zip(fast, known, strict=False)],
            repeat(None) if pose is None else pose_covariances(pose[:, :6].T.tolist(), pose[:, 6].tolist()),
            repeat(None) if spread is None else velocity_covariances(spread.T.tolist()),
            repeat(pose is not None),
            known,
            repeat(spread is not None),
            self.age_ns.tolist(),
            self.last_seen_ns.tolist(),
            map(self.sources.__getitem__, self.source.tolist()),
            self.semantics.tuples(),
            self.num_points.tolist(),
            repeat(None),  # visibility
            repeat(None) if self.motion is None else _motions(self.motion),
            repeat(()) if self.history is None else self.history.tuples(),
            repeat(()) if self.recognitions is None else self.recognitions,
            repeat(None) if self.skeletons is None else self.skeletons,
        )
        return tuple(found) if len(self.id) else ()


class TableObjects(Sequence[FusedObject], Packed):
    """The objects of a table, in the place of a tuple of them."""

    def __init__(self, table: ObjectTable) -> None:
        self.table = table

    def packed(self) -> memoryview:
        return packed_objects(self.table)

    def __len__(self) -> int:
        return len(self.table.id)

    def __iter__(self) -> Iterator[FusedObject]:
        return iter(self._objects)

    @overload
    def __getitem__(self, index: int) -> FusedObject: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[FusedObject, ...]: ...
    def __getitem__(self, index: int | slice) -> FusedObject | tuple[FusedObject, ...]:
        return self._objects[index]

    def __eq__(self, other: object) -> bool:
        return self._objects == (other._objects if isinstance(other, TableObjects) else other)

    __hash__ = None  # type: ignore[assignment]  # tuples of equal objects are equal to it

    @cached_property
    def _objects(self) -> tuple[FusedObject, ...]:
        return self.table.objects()


def _motions(motion: Motions) -> Iterator[ObjectMotion]:
    rates: list[Any] = motion.yaw_rate_radps.tolist()
    for straight in np.flatnonzero(~motion.turns).tolist():
        rates[straight] = 0
    kinds = map(MOTIONS.__getitem__, motion.turns.tolist())
    return map(ObjectMotion, kinds, rates, *motion.noise.T.tolist(), map(tuple, motion.covariance.tolist()))


__all__ = ["AVAILABLE", "MOTIONS", "ORIENTATIONS", "Motions", "ObjectTable", "PastPoses", "TableObjects"]
