"""Where tracked objects were: two places of each, half a second or more apart, in the frame that tracks live in."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from perception.geometry.transforms import Transform
from perception.tracking.object_table import PastPoses
from perception.tracking.rows import Ids, Rows

STEP_NS = 500_000_000
PLACES = 2
NEVER = np.iinfo(np.int64).max


class PastPlaces:
    """See the module's text."""

    def __init__(self) -> None:
        self._rows = Rows()
        self._t_ns = np.zeros((0, PLACES), np.int64)
        """Of each place, oldest first; NEVER where there is none yet."""
        self._places = np.zeros((0, PLACES, 3))

    def __len__(self) -> int:
        return len(self._rows)

    def keep(self, ids: Ids) -> None:
        """Forget all objects but these."""
        rows = self._rows.keep(ids)
        self._t_ns, self._places = self._t_ns[rows], self._places[rows]

    def note(self, ids: Ids, places: NDArray[np.float64], t_ns: int, base_link: Transform) -> PastPoses:
        """Note where objects are, where that is due, and return where they were before now.

        Args:
            ids: (N,) of objects.
            places: (N, 3) x, y and yaw.
            t_ns: now.
            base_link: from the frame of the places to `base_link` now, which the answer is in.
        """
        rows, new = self._rows.of(ids), len(self._rows) - len(self._t_ns)
        if new:
            self._t_ns = np.concatenate((self._t_ns, np.full((new, PLACES), NEVER)))
            self._places = np.concatenate((self._places, np.zeros((new, PLACES, 3))))
        flat = base_link.rotation[:2], base_link.translation_m[:2]
        return PastPoses(
            *_noted(self._t_ns, self._places, rows, np.ascontiguousarray(places), t_ns, *flat, base_link.yaw_rad())
        )


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def _noted(t_ns: Any, kept: Any, rows: Any, places: Any, now_ns: int, axes: Any, origin: Any, turn: float) -> Any:
    """Note places where that is due; return stamps (M,), x, y and yaw (3, M) before now, and each row's end (N,).

    Args:
        t_ns: (R, PLACES), is changed.
        kept: (R, PLACES, 3), is changed.
        rows: (N,) which of them.
        places: (N, 3) where they are now.
        now_ns: the instant.
        axes: (2, 3) from the frame of the places to that of the answer.
        origin: (2,) of the same transform.
        turn: by which yaws grow.
    """
    last = t_ns.shape[1] - 1
    stamps, seen = np.empty(rows.size * t_ns.shape[1], np.int64), np.empty((3, rows.size * t_ns.shape[1]))
    ends, count = np.empty(rows.size, np.int64), 0
    for n in range(rows.size):
        row = rows[n]
        if t_ns[row, last] <= now_ns - STEP_NS or t_ns[row, last] == NEVER:
            for k in range(last):
                t_ns[row, k] = t_ns[row, k + 1]
                for i in range(3):
                    kept[row, k, i] = kept[row, k + 1, i]
            t_ns[row, last] = now_ns
            for i in range(3):
                kept[row, last, i] = places[n, i]
        for k in range(last + 1):
            if t_ns[row, k] >= now_ns:
                continue
            x, y, yaw = kept[row, k]
            stamps[count] = t_ns[row, k]
            for i in range(2):
                seen[i, count] = axes[i, 0] * x + axes[i, 1] * y + origin[i]
            seen[2, count] = yaw + turn
            count += 1
        ends[n] = count
    return stamps[:count], seen[:, :count], ends


__all__ = ["PastPlaces"]
