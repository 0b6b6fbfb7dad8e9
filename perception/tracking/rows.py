"""Which row of some arrays is whose, by id."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray


class Rows:
    """See the module's text; whoever has the arrays lets them grow to `len(rows)`."""

    def __init__(self) -> None:
        self._row: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._row)

    def of(self, ids: Sequence[int]) -> NDArray[np.int64]:
        """Return the row of each id; a new one gets the next."""
        known = self._row
        return np.array([known.setdefault(identity, len(known)) for identity in ids], np.int64)

    def known(self, ids: Sequence[int]) -> NDArray[np.int64]:
        """Return the row of each id, -1 for one that has none."""
        return np.array([self._row.get(identity, -1) for identity in ids], np.int64)

    def keep(self, ids: Iterable[int]) -> NDArray[np.int64]:
        """Forget all but these, and return which rows are left, in their new order."""
        wanted = set(ids)
        kept = {identity: row for identity, row in self._row.items() if identity in wanted}
        self._row = {identity: row for row, identity in enumerate(kept)}
        return np.array([*kept.values()], np.int64)


__all__ = ["Rows"]
