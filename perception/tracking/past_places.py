"""Where tracked objects were: two places of each, half a second or more apart, in the frame that tracks live in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from perception.geometry.transforms import Transform
from perception.messages import PastPose
from perception.messages.grouping import grouped

STEP_NS = 500_000_000
PLACES = 2
NEVER = np.iinfo(np.int64).max


class PastPlaces:
    """See the module's text."""

    def __init__(self) -> None:
        self.clear()

    def __len__(self) -> int:
        return len(self._row)

    def clear(self) -> None:
        """Forget everything."""
        self._row: dict[int, int] = {}
        self._t_ns = np.zeros((0, PLACES), np.int64)
        """Of each place, oldest first; NEVER where there is none yet."""
        self._places = np.zeros((0, PLACES, 3))

    def keep(self, ids: Iterable[int]) -> None:
        """Forget all objects but these."""
        wanted = set(ids)
        kept = [identity for identity in self._row if identity in wanted]
        rows = [self._row[identity] for identity in kept]
        self._row = {identity: row for row, identity in enumerate(kept)}
        self._t_ns, self._places = self._t_ns[rows], self._places[rows]

    def note(
        self, ids: Sequence[int], places: NDArray[np.float64], t_ns: int, base_link: Transform
    ) -> list[tuple[PastPose, ...]]:
        """Note where objects are, where that is due, and return where they were before now.

        Args:
            ids: of N objects.
            places: (N, 3) x, y and yaw.
            t_ns: now.
            base_link: from the frame of the places to `base_link` now, which the answer is in.
        """
        rows = self._rows(ids)
        due = self._t_ns[rows, -1] <= t_ns - STEP_NS
        due |= self._t_ns[rows, -1] == NEVER
        if due.any():
            now = rows[due]
            self._t_ns[now, :-1], self._places[now, :-1] = self._t_ns[now, 1:], self._places[now, 1:]
            self._t_ns[now, -1], self._places[now, -1] = t_ns, places[due]
        return self._before(rows, t_ns, base_link)

    def _rows(self, ids: Sequence[int]) -> NDArray[np.int64]:
        known = self._row
        new = [identity for identity in ids if identity not in known]
        if new:
            for identity in new:
                known[identity] = len(known)
            self._t_ns = np.concatenate((self._t_ns, np.full((len(new), PLACES), NEVER)))
            self._places = np.concatenate((self._places, np.zeros((len(new), PLACES, 3))))
        return np.array([known[identity] for identity in ids], np.int64)

    def _before(self, rows: NDArray[np.int64], t_ns: int, base_link: Transform) -> list[tuple[PastPose, ...]]:
        ((a, b, _), (c, d, _), _), (x0, y0, _) = base_link.rotation.tolist(), base_link.translation_m.tolist()
        then = self._t_ns[rows]
        past = then < t_ns
        x, y, yaw = self._places[rows][past].T
        poses = map(
            PastPose, then[past].tolist(), (a * x + b * y + x0).tolist(), (c * x + d * y + y0).tolist(),
            (yaw + base_link.yaw_rad()).tolist(),
        )  # fmt: skip
        return grouped(poses, past.sum(axis=1).cumsum().tolist())


__all__ = ["PastPlaces"]
