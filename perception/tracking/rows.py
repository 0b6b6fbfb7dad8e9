"""Which row of some arrays is whose, by id."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]


class Rows:
    """See the module's text; whoever has the arrays lets them grow to `len(rows)`."""

    def __init__(self) -> None:
        self._ids, self._row = np.zeros(0, np.int64), np.zeros(0, np.int64)
        """Ids, rising, and the row of each."""

    def __len__(self) -> int:
        return len(self._ids)

    def of(self, ids: Ids) -> NDArray[np.int64]:
        """Return the row of each id (N,), all of them different; a new one gets the next."""
        rows = self.known(ids)
        new = ids[rows < 0]
        if len(new):
            every = np.concatenate((self._ids, new))
            row = np.concatenate((self._row, np.arange(len(self), len(every))))
            order = np.argsort(every)
            self._ids, self._row = every[order], row[order]
            rows = self.known(ids)
        return rows

    def known(self, ids: Ids) -> NDArray[np.int64]:
        """Return the row of each id (N,), -1 for one that has none."""
        rows: NDArray[np.int64] = _found(self._ids, self._row, ids)
        return rows

    def keep(self, ids: Ids) -> NDArray[np.int64]:
        """Forget all but these, and return which rows are left, in their new order."""
        wanted = np.isin(self._ids, ids)
        left = np.sort(self._row[wanted])
        self._ids, self._row = self._ids[wanted], np.searchsorted(left, self._row[wanted])
        return left


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def _found(rising: Any, row: Any, ids: Any) -> Any:
    found = np.full(len(ids), -1)
    for k in range(len(ids)):
        at = np.searchsorted(rising, ids[k])
        if at < len(rising) and rising[at] == ids[k]:
            found[k] = row[at]
    return found


__all__ = ["Ids", "Rows"]
