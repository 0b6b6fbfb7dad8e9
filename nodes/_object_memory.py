"""What is known of tracked objects beside their motion: where they were, what they look like, what they do.

All is kept by the track's id, with the stamp at which it was said, and forgotten after a second or with the track.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import repeat
from operator import attrgetter
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from perception.geometry.transforms import Transform
from perception.messages import FusedObject, ObjectClass, Skeleton
from perception.tracking.object_list import NOTHING, Attached
from perception.tracking.past_places import PastPlaces
from perception.tracking.tracks import Tracks

REMEMBERED_NS = 1_000_000_000
"""For so long what another source says counts."""


class ObjectMemory:
    """See the module's text.

    Attributes:
        recognised: what a track was last seen to do.
        skeletons: with joints (J, 3) from the track's place on the ground, in the frame that tracks live in.
    """

    def __init__(self) -> None:
        self.recognised: dict[int, tuple[int, tuple[ObjectClass, ...]]] = {}
        self.skeletons: dict[int, tuple[int, Skeleton, NDArray[np.float64]]] = {}
        self._looks: dict[int, tuple[int, tuple[ObjectClass, ...], int]] = {}
        self._places = PastPlaces()

    @property
    def _by_id(self) -> tuple[dict[int, Any], ...]:
        return self._looks, self.recognised, self.skeletons

    def clear(self) -> None:
        """Forget everything."""
        self._places.clear()
        for known in self._by_id:
            known.clear()

    def note_looks(self, ids: Sequence[int], things: Sequence[FusedObject], t_ns: int) -> None:
        """Note as what tracks were detected by the fuser, an object each."""
        looks = zip(
            repeat(t_ns), map(attrgetter("semantics"), things), map(attrgetter("num_points"), things), strict=False
        )
        self._looks.update(zip(ids, looks, strict=True))

    def forget_all_but(self, alive: Tracks) -> None:
        """Forget what is known of tracks that are gone, once it is much."""
        if max(len(self._places), *map(len, self._by_id)) <= 2 * len(alive) + 16:
            return
        ids = set(alive["id"].tolist())
        self._places.keep(ids)
        for known in self._by_id:
            for identity in [key for key in known if key not in ids]:
                del known[identity]

    def attached(self, tracks: Tracks, t_ns: int, base_link: Transform) -> Attached:
        """Note where tracks are, now and then, and return what is known of them and not too old, in `base_link` now."""
        if not len(tracks):
            return NOTHING
        ids, oldest_ns = tracks["id"].tolist(), t_ns - REMEMBERED_NS
        history = self._places.note(ids, tracks["mean"][:, :3], t_ns, base_link)
        unseen = (oldest_ns, (), 0)
        looks = map(self._looks.get, ids, repeat(unseen))
        _, semantics, num_points = zip(*[one if one[0] >= oldest_ns else unseen for one in looks], strict=True)
        return Attached(
            semantics, num_points, history,
            [_recent(self.recognised, identity, oldest_ns) for identity in ids] if self.recognised else repeat(()),
            [self._skeleton(track, oldest_ns, base_link) for track in tracks] if self.skeletons else repeat(None),
        )  # fmt: skip

    def _skeleton(self, track: np.void, oldest_ns: int, base_link: Transform) -> Skeleton | None:
        seen_ns, skeleton, moved = self.skeletons.get(int(track["id"]), (oldest_ns - 1, None, None))
        if skeleton is None or seen_ns < oldest_ns:
            return None
        joints = base_link.apply(moved + np.append(track["mean"][:2], 0.0))
        return msgspec.structs.replace(skeleton, joints_m=tuple(map(tuple, joints.tolist())))


def _recent(
    known: Mapping[int, tuple[int, tuple[ObjectClass, ...]]], identity: int, oldest_ns: int
) -> tuple[ObjectClass, ...]:
    """Return what is known of a track, nothing where that was too long ago."""
    found = known.get(identity)
    return found[1] if found is not None and found[0] >= oldest_ns else ()


__all__ = ["REMEMBERED_NS", "ObjectMemory"]
