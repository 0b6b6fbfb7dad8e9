"""What is known of tracked objects beside their motion: where they were, what they look like, what they do.

All is kept by the track's id, with the stamp at which it was said, and forgotten after a second or with the track.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from perception.geometry.transforms import Transform
from perception.messages import ObjectClass, Skeleton
from perception.tracking.looks import Looks
from perception.tracking.object_list import Attached
from perception.tracking.past_places import PastPlaces
from perception.tracking.tracks import Tracks

REMEMBERED_NS = 1_000_000_000
"""For so long what another source says counts."""


class ObjectMemory:
    """See the module's text.

    Attributes:
        looks: what tracks were detected by the fuser as.
        recognised: what a track was last seen to do.
        skeletons: with joints (J, 3) from the track's place on the ground, in the frame that tracks live in.
    """

    def __init__(self) -> None:
        self.clear()

    @property
    def _by_id(self) -> tuple[dict[int, Any], ...]:
        return self.recognised, self.skeletons

    def clear(self) -> None:
        """Forget everything."""
        self.recognised: dict[int, tuple[int, tuple[ObjectClass, ...]]] = {}
        self.skeletons: dict[int, tuple[int, Skeleton, NDArray[np.float64]]] = {}
        self.looks = Looks()
        self._places = PastPlaces()

    def forget_all_but(self, alive: Tracks) -> None:
        """Forget what is known of tracks that are gone, once it is much."""
        if max(len(self._places), len(self.looks), *map(len, self._by_id)) <= 2 * len(alive) + 16:
            return
        self._places.keep(alive["id"])
        self.looks.keep(alive["id"])
        ids = set(alive["id"].tolist())
        for known in self._by_id:
            for identity in [key for key in known if key not in ids]:
                del known[identity]

    def attached(self, tracks: Tracks, t_ns: int, base_link: Transform) -> Attached:
        """Note where tracks are, now and then, and return what is known of them and not too old, in `base_link` now."""
        ids, oldest_ns = np.ascontiguousarray(tracks["id"]), t_ns - REMEMBERED_NS
        history = self._places.note(ids, tracks["mean"][:, :3], t_ns, base_link)
        return Attached(
            *self.looks.of(ids, oldest_ns), history,
            [_recent(self.recognised, identity, oldest_ns) for identity in ids.tolist()] if self.recognised else None,
            [self._skeleton(track, oldest_ns, base_link) for track in tracks] if self.skeletons else None,
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
