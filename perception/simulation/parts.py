"""What the world is built of: primitives, packed for the ray caster.

A part is one row of numbers and one of attributes. Objects (cars, people, cyclists) are groups of parts; `thing` is the
index of the object that a part belongs to, or -1.

    kind       row[1:4]        row[4:7]                 row[7:9]
    BOX        centre          half sizes l, w, h       cosine and sine of its yaw
    ELLIPSOID  centre          radii x, y, z
    CYLINDER   centre          radius, half height      (upright)
    CAPSULE    one end         the other end            radius
    DISC       centre          radius, inner radius     cosine and sine of the heading it stands along (upright)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from perception.simulation.intersections import jit

Float: TypeAlias = NDArray[np.float64]

BOX, ELLIPSOID, CYLINDER, CAPSULE, DISC = range(5)
PLAIN, FACADE, LEAVES, BODY, GLASS, BRICK, CLOTH, LAMP, BARK, SIGN = range(10)
"""What a surface looks like."""
COLUMNS = 9


@dataclass(frozen=True, eq=False)
class Parts:
    """P parts.

    Attributes:
        rows: (P, 9) as the module's text says.
        colour: (P, 3) 0 to 1, linear.
        semantic: (P,) class.
        surface: (P,) PLAIN, FACADE, ...
        thing: (P,) index of the object, -1 for none.
        velocity_mps: (P, 3) world.
    """

    rows: Float
    colour: Float
    semantic: NDArray[np.int64]
    surface: NDArray[np.int64]
    thing: NDArray[np.int64]
    velocity_mps: Float

    def __len__(self) -> int:
        return len(self.rows)

    def spheres(self) -> Float:
        """Return bounding spheres (P, 4): centre, radius."""
        spheres = np.empty((len(self), 4))
        _bound(self.rows, spheres)
        return spheres

    def taken(self, which: NDArray[np.bool_]) -> Parts:
        """Return some of the parts."""
        return Parts(
            self.rows[which], self.colour[which], self.semantic[which], self.surface[which], self.thing[which],
            self.velocity_mps[which],
        )  # fmt: skip


@jit
def _bound(rows: Any, spheres: Any) -> None:
    for p in range(len(rows)):
        kind, a, b, c = rows[p, 0], rows[p, 4], rows[p, 5], rows[p, 6]
        for k in range(3):
            spheres[p, k] = rows[p, 1 + k] if kind != CAPSULE else (rows[p, 1 + k] + rows[p, 4 + k]) / 2
        if kind == BOX:
            spheres[p, 3] = math.sqrt(a * a + b * b + c * c)
        elif kind == ELLIPSOID:
            spheres[p, 3] = max(a, b, c)
        elif kind == CYLINDER:
            spheres[p, 3] = math.sqrt(a * a + b * b)
        elif kind == CAPSULE:
            x, y, z = a - rows[p, 1], b - rows[p, 2], c - rows[p, 3]
            spheres[p, 3] = math.sqrt(x * x + y * y + z * z) / 2 + rows[p, 7]
        else:
            spheres[p, 3] = a


def joined(*groups: Parts) -> Parts:
    """Return the parts of all groups."""
    return Parts(
        *(
            np.concatenate([getattr(group, name) for group in groups])
            for name in ("rows", "colour", "semantic", "surface", "thing", "velocity_mps")
        )
    )


def parts(
    kind: int, at: ArrayLike, size: ArrayLike, rest: ArrayLike, colour: ArrayLike, semantic: ArrayLike,
    surface: ArrayLike = PLAIN, thing: ArrayLike = -1, velocity_mps: ArrayLike = (0.0, 0.0, 0.0),
) -> Parts:  # fmt: skip
    """Make parts of one kind; what is given once holds for all. `at` is (P, 3) or (3,), `rest` (P, 2) or (2,)."""
    place = np.atleast_2d(np.asarray(at, np.float64))
    count = len(place)
    rows = np.empty((count, COLUMNS))
    rows[:, 0], rows[:, 1:4], rows[:, 4:7], rows[:, 7:9] = kind, place, size, rest
    made = Parts(
        rows, np.empty((count, 3)), np.empty(count, np.int64), np.empty(count, np.int64), np.empty(count, np.int64),
        np.empty((count, 3)),
    )  # fmt: skip
    made.colour[:], made.semantic[:], made.surface[:] = colour, semantic, surface
    made.thing[:], made.velocity_mps[:] = thing, velocity_mps
    return made


NO_PARTS = parts(BOX, np.zeros((0, 3)), (0, 0, 0), (1, 0), (0, 0, 0), 0)

__all__ = [
    "BARK", "BODY", "BOX", "BRICK", "CAPSULE", "CLOTH", "CYLINDER", "DISC", "ELLIPSOID", "FACADE", "GLASS", "LAMP",
    "LEAVES", "NO_PARTS", "PLAIN", "SIGN", "Parts", "joined", "parts",
]  # fmt: skip
