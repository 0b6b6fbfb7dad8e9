"""Events of an event camera as four arrays, and how a stream of them is cut.

Times are nanoseconds, ascending; columns x and rows y; polarity 1 where it got brighter, 0 where darker.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from perception.errors import ShapeError


@dataclass(frozen=True)
class Events:
    """Some events, one entry each in four arrays of equal length.

    Raises:
        ShapeError: the lengths differ.
    """

    t_ns: NDArray[np.int64]
    x: NDArray[np.uint16]
    y: NDArray[np.uint16]
    polarity: NDArray[np.uint8]

    def __post_init__(self) -> None:
        lengths = [len(values) for values in (self.t_ns, self.x, self.y, self.polarity)]
        if len(set(lengths)) != 1:
            raise ShapeError(f"event arrays t_ns, x, y, polarity of lengths {lengths}; expected one entry per event")

    @classmethod
    def of(cls, t_ns: Any, x: Any, y: Any, polarity: Any) -> Self:
        """Convert array-likes; polarity becomes 1 where it is above 0.

        Raises:
            ShapeError: the lengths differ, or a coordinate does not fit 16 bits.
        """
        for name, values in (("x", x), ("y", y)):
            if np.size(values) and (np.min(values) < 0 or np.max(values) > 0xFFFF):
                raise ShapeError(f"event {name} from {np.min(values)} to {np.max(values)}; expected 0 to 65535")
        return cls(
            np.ascontiguousarray(t_ns, np.int64),
            np.ascontiguousarray(x, np.uint16),
            np.ascontiguousarray(y, np.uint16),
            np.ascontiguousarray(np.asarray(polarity) > 0, np.uint8),
        )

    @classmethod
    def none(cls) -> Self:
        """Return no events."""
        return cls.of([], [], [], [])

    @classmethod
    def joined(cls, packets: Iterable[Events]) -> Self:
        """Put packets behind each other."""
        given = list(packets) or [cls.none()]
        return cls(
            np.concatenate([packet.t_ns for packet in given]),
            np.concatenate([packet.x for packet in given]),
            np.concatenate([packet.y for packet in given]),
            np.concatenate([packet.polarity for packet in given]),
        )

    def __len__(self) -> int:
        return len(self.t_ns)

    def __getitem__(self, chosen: slice | NDArray[Any]) -> Events:
        return Events(self.t_ns[chosen], self.x[chosen], self.y[chosen], self.polarity[chosen])

    def between(self, begin_ns: int, end_ns: int) -> Events:
        """Return those with begin <= t < end, without a copy.

        The first one at or after `begin` is found by bisection, so the times must not fall.
        """
        begin, end = np.searchsorted(self.t_ns, (begin_ns, end_ns), side="left")
        return self[int(begin) : int(end)]

    def check_fits(self, height: int, width: int) -> None:
        """Check that every event lies on a sensor of this size.

        Raises:
            ShapeError: one does not.
        """
        if len(self) and (self.x.max() >= width or self.y.max() >= height):
            raise ShapeError(
                f"events up to column {self.x.max()} and row {self.y.max()}; the sensor has {width} columns and "
                f"{height} rows"
            )
