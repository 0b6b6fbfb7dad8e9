"""What tracked objects look like: the shares of painted classes among their points, and how many points there are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from perception.tracking.class_lists import ClassLists
from perception.tracking.rows import Ids, Rows

TINY = 1e-9
"""Less than the share of one point."""
NEVER = np.iinfo(np.int64).min


class Looks:
    """See the module's text; by the id of the track."""

    def __init__(self) -> None:
        self._rows = Rows()
        self._names: tuple[str, ...] = ()
        self._t_ns, self._num_points = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self._share = np.zeros((0, 0))

    def __len__(self) -> int:
        return len(self._rows)

    def keep(self, ids: Ids) -> None:
        """Forget all tracks but these."""
        rows = self._rows.keep(ids)
        self._t_ns, self._num_points, self._share = self._t_ns[rows], self._num_points[rows], self._share[rows]

    def note(
        self, ids: Ids, t_ns: int, names: tuple[str, ...], share: NDArray[np.float64],
        num_points: NDArray[np.int64],
    ) -> None:  # fmt: skip
        """Note what N tracks look like at an instant: shares (N, C) of the names (C,), and points (N,)."""
        if self._names[: len(names)] != names:
            self._names = tuple(dict.fromkeys((*self._names, *names)))
        rows = self._rows.of(ids)
        more = len(self._rows) - len(self._t_ns), len(self._names) - self._share.shape[1]
        if any(more):
            self._t_ns = np.pad(self._t_ns, (0, more[0]), constant_values=NEVER)
            self._num_points = np.pad(self._num_points, (0, more[0]))
            self._share = np.pad(self._share, ((0, more[0]), (0, more[1])))
        self._t_ns[rows], self._num_points[rows] = t_ns, num_points
        if names != self._names:
            every = np.zeros((len(rows), len(self._names)))
            every[:, [self._names.index(name) for name in names]] = share
            share = every
        self._share[rows] = share

    def of(self, ids: Ids, oldest_ns: int) -> tuple[ClassLists, NDArray[np.int64]]:
        """Return what tracks look like, and their numbers of points; nothing where that was said before `oldest_ns`."""
        rows = self._rows.known(ids)
        if not len(self._rows):
            return ClassLists.empty(len(rows)), np.zeros(len(rows), np.int64)
        rows[(rows < 0) | (self._t_ns[rows] < oldest_ns)] = -1
        return ClassLists.ranked(self._names, self._share, TINY, rows), np.where(rows < 0, 0, self._num_points[rows])


__all__ = ["TINY", "Looks"]
