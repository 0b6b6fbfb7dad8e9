"""The static frame tree of a rig: root `base_link`, one parent per frame."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from perception.errors import GeometryError, did_you_mean
from perception.geometry.transforms import Transform

ROOT = "base_link"
OPTICAL_FROM_NAME = "_optical"


@dataclass(frozen=True)
class FrameTree:
    """Frames by name, each with its place in its parent.

    Attributes:
        parents: frame -> parent frame; the root is not in it.
        transforms: frame -> parent_from_frame.
    """

    parents: Mapping[str, str]
    transforms: Mapping[str, Transform]

    @classmethod
    def of(cls, edges: Mapping[tuple[str, str], Transform]) -> FrameTree:
        """Build the tree from (parent, child) -> parent_from_child.

        Raises:
            GeometryError: a frame with two parents, a loop, or a frame that does not hang on `base_link`.
        """
        parents: dict[str, str] = {}
        for parent, child in edges:
            if child in parents:
                raise GeometryError(f"frame '{child}' has two parents, '{parents[child]}' and '{parent}'")
            parents[child] = parent
        tree = cls(parents, {child: transform for (_, child), transform in edges.items()})
        for frame in parents:
            tree.path(frame)
        return tree

    def path(self, frame: str) -> list[str]:
        """Return the frames from `frame` to the root, both included.

        Raises:
            GeometryError: no such frame, a loop, or an orphan.
        """
        path = [frame]
        while path[-1] != ROOT:
            parent = self.parents.get(path[-1])
            if parent is None:
                if len(path) == 1:
                    raise GeometryError(f"there is no frame '{frame}'.{did_you_mean(frame, [ROOT, *self.parents])}")
                raise GeometryError(f"frame '{frame}' hangs on '{path[-1]}', which does not hang on '{ROOT}'")
            if parent in path:
                raise GeometryError(f"the frames form a loop: {' -> '.join([*path, parent])}")
            path.append(parent)
        return path

    def base_link_from(self, frame: str) -> Transform:
        """Return base_link_from_frame.

        Raises:
            GeometryError: there is no such frame.
        """
        known = self._places.get(frame)
        if known is None:
            known = Transform.identity()
            for step in self.path(frame)[:-1]:
                known = self.transforms[step] @ known
            self._places[frame] = known
        return known

    @cached_property
    def _places(self) -> dict[str, Transform]:
        """base_link_from_frame of the frames that somebody asked for."""
        return {}

    def transform(self, target: str, source: str) -> Transform:
        """Return target_from_source."""
        return self.base_link_from(target).inverse() @ self.base_link_from(source)


CAMERA_FROM_OPTICAL = Transform.from_quaternion((0.0, 0.0, 0.0), (-0.5, 0.5, -0.5, 0.5))
"""`<name>` (x forward, y left, z up) from `<name>_optical` (x right, y down, z forward)."""

__all__ = ["CAMERA_FROM_OPTICAL", "ROOT", "FrameTree"]
