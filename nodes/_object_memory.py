"""What is known of tracked objects beside their motion: where they were, what they look like, what they do.

All is kept by the track's id, with the stamp at which it was said, and forgotten after a second or with the track.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from perception.geometry.transforms import Transform
from perception.messages import FusedObject, ObjectClass, PastPose, Skeleton
from perception.tracking.object_list import Attached
from perception.tracking.tracks import Tracks

T = TypeVar("T")
REMEMBERED_NS = 1_000_000_000
"""For so long what another source says counts."""
HISTORY_STEP_NS, HISTORY_LENGTH = 500_000_000, 2


class ObjectMemory:
    """See the module's text.

    Attributes:
        painted: the fuser's object that a track was last detected as.
        recognised: what it was last seen to do.
        skeletons: with joints (J, 3) from the track's place on the ground, in the frame that tracks live in.
    """

    def __init__(self) -> None:
        self.painted: dict[int, tuple[int, FusedObject]] = {}
        self.recognised: dict[int, tuple[int, tuple[ObjectClass, ...]]] = {}
        self.skeletons: dict[int, tuple[int, Skeleton, NDArray[np.float64]]] = {}
        self._places: dict[int, deque[tuple[int, float, float, float]]] = {}

    @property
    def _every(self) -> tuple[dict[int, Any], ...]:
        return self._places, self.painted, self.recognised, self.skeletons

    def clear(self) -> None:
        """Forget everything."""
        for known in self._every:
            known.clear()

    def note(self, shown: Tracks, alive: Tracks, t_ns: int) -> None:
        """Note where objects are, now and then, and forget what is known of tracks that are gone.

        Args:
            shown: the objects.
            alive: all tracks.
            t_ns: now.
        """
        known, due_ns = self._places, t_ns - HISTORY_STEP_NS
        for identity, (x, y, yaw) in zip(shown["id"].tolist(), shown["mean"][:, :3].tolist(), strict=True):
            places = known.get(identity)
            if places is None:
                known[identity] = deque(((t_ns, x, y, yaw),), maxlen=HISTORY_LENGTH)
            elif places[-1][0] <= due_ns:
                places.append((t_ns, x, y, yaw))
        if max(map(len, self._every)) > 2 * len(alive) + 16:
            ids = set(alive["id"].tolist())
            for one in self._every:
                for identity in [key for key in one if key not in ids]:
                    del one[identity]

    def attached(self, tracks: Tracks, t_ns: int, base_link: Transform) -> dict[int, Attached]:
        """Return what is known of tracks and not too old, in `base_link` now."""
        if not (self.painted or self.recognised or self.skeletons):
            return {}
        found: dict[int, Attached] = {}
        for row, identity in enumerate(tracks["id"].tolist()):
            thing = _recent(self.painted, identity, t_ns)
            skeleton = self._skeleton(tracks[row], t_ns, base_link) if identity in self.skeletons else None
            looks, points = ((), 0) if thing is None else (thing.semantics, thing.num_points)
            known = _recent(self.recognised, identity, t_ns) or () if identity in self.recognised else ()
            found[identity] = Attached(looks, points, known, skeleton)
        return found

    def history(self, tracks: Tracks, t_ns: int, base_link: Transform) -> dict[int, tuple[PastPose, ...]]:
        """Return where tracks were, in `base_link` now; in Python, since numpy costs by the call."""
        ((a, b, _), (c, d, _), _), (x0, y0, _) = base_link.rotation.tolist(), base_link.translation_m.tolist()
        turn, places = base_link.yaw_rad(), self._places
        return {
            identity: tuple(
                [
                    PastPose(then, a * x + b * y + x0, c * x + d * y + y0, yaw + turn)
                    for then, x, y, yaw in places.get(identity, ())
                    if then < t_ns
                ]
            )
            for identity in tracks["id"].tolist()
        }

    def _skeleton(self, track: np.void, t_ns: int, base_link: Transform) -> Skeleton | None:
        seen_ns, skeleton, moved = self.skeletons[int(track["id"])]
        if t_ns - seen_ns > REMEMBERED_NS:
            return None
        joints = base_link.apply(moved + np.append(track["mean"][:2], 0.0))
        return msgspec.structs.replace(skeleton, joints_m=tuple(map(tuple, joints.tolist())))


def _recent(known: Mapping[int, tuple[int, T]], identity: int, t_ns: int) -> T | None:
    """Return what is known of a track, None where that was too long ago."""
    found = known.get(identity)
    return found[1] if found is not None and t_ns - found[0] <= REMEMBERED_NS else None


__all__ = ["REMEMBERED_NS", "ObjectMemory"]
