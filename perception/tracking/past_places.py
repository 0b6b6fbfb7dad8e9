"""Where tracked objects were: two places of each, half a second or more apart, in the frame that tracks live in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numba
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
        turn = np.ascontiguousarray(base_link.matrix[:2])
        t_before, seen, ends = _before(self._t_ns, self._places, rows, t_ns, turn, base_link.yaw_rad())
        poses = map(PastPose, t_before.tolist(), *seen.tolist())
        return grouped(poses, ends.tolist())


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def _before(t_ns: Any, places: Any, rows: Any, now_ns: int, matrix: Any, turn: float) -> Any:
    """Return stamps (M,), x, y and yaw (3, M) of the places of some rows before now, and where each row's end (N,).

    Args:
        t_ns: (R, PLACES).
        places: (R, PLACES, 3).
        rows: (N,) which of them.
        now_ns: the instant.
        matrix: (2, 4) from the frame of the places to that of the answer.
        turn: by which yaws grow.
    """
    stamps, seen = np.empty(rows.size * t_ns.shape[1], np.int64), np.empty((3, rows.size * t_ns.shape[1]))
    ends, count = np.empty(rows.size, np.int64), 0
    for n in range(rows.size):
        for k in range(t_ns.shape[1]):
            if t_ns[rows[n], k] >= now_ns:
                continue
            x, y, yaw = places[rows[n], k]
            stamps[count] = t_ns[rows[n], k]
            for i in range(2):
                seen[i, count] = matrix[i, 0] * x + matrix[i, 1] * y + matrix[i, 3]
            seen[2, count] = yaw + turn
            count += 1
        ends[n] = count
    return stamps[:count], seen[:, :count], ends


__all__ = ["PastPlaces"]
