"""A rig held against a recording."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception.calibrate.bump.camera_edges import Shot, camera_moved, make_shot
from perception.calibrate.bump.estimate import Estimate, displaced
from perception.calibrate.bump.findings import Finding, judged
from perception.calibrate.bump.lidar_edges import SceneLines, scene_lines
from perception.calibrate.bump.lidar_motion import lidar_moved
from perception.calibrate.bump.recording import Recording
from perception.geometry.rig import Rig
from perception.geometry.transforms import Transform

Float: TypeAlias = NDArray[np.float64]
SURE = 3.0
"""Standard deviations."""
LEAST = np.array([0.003] * 3 + [0.02] * 3)
"""What of a LiDAR's motion makes no difference to what counts as road, radians and metres."""


class RigCheck:
    """Holds one recording against rigs; what was measured for a sensor's place is kept for the next rig."""

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self._stamps = np.array([sweep.t_ns for sweep in recording.sweeps], np.int64)
        self._lidar: dict[bytes, Estimate | None] = {}
        self._lines: dict[tuple[bytes, int], SceneLines] = {}
        self._cameras: dict[tuple[str, bytes, bytes], Estimate | None] = {}

    def findings(self, rig: Rig) -> list[Finding]:
        """Return one finding per sensor that the recording has: the LiDAR, then the cameras.

        Where the LiDAR moved, the cameras are judged from where it is: a degree away, lines lie on other edges, too.

        Raises:
            GeometryError: the rig has not all sensors of the recording.
        """
        names = (self.recording.lidar, *self.recording.pictures)
        places = {name: rig.base_link_from(rig.sensor(name).frame) for name in names}
        lidar, *cameras = self._judged(rig, places)
        if lidar.state != "moved":
            return [lidar, *cameras]
        there = displaced(places[self.recording.lidar], lidar.moved)
        return [lidar, *self._judged(rig, places | {self.recording.lidar: there})[1:]]

    def _judged(self, rig: Rig, places: Mapping[str, Transform]) -> list[Finding]:
        recording = self.recording
        lidar = places[recording.lidar]
        moved = self._of_lidar(lidar)
        cameras = {}
        for name in recording.pictures:
            key = (name, _key(lidar), _key(places[name]))
            if key not in self._cameras:
                shots = self._shots(name, lidar, moved)
                self._cameras[key] = camera_moved(rig.camera(name), places[name], shots)
            cameras[name] = self._cameras[key]
        return judged((recording.lidar, moved), cameras, places)

    def _of_lidar(self, place: Transform) -> Estimate | None:
        key = _key(place)
        if key not in self._lidar:
            self._lidar[key] = lidar_moved(self.recording.sweeps, place, self.recording.track)
        return self._lidar[key]

    def _shots(self, camera: str, lidar: Transform, moved: Estimate | None) -> list[Shot]:
        shots = []
        for t_ns, grey in self.recording.pictures[camera]:
            after = int(np.searchsorted(self._stamps, t_ns))
            if after + 1 < len(self._stamps) and self.recording.track.covers(np.array([t_ns])).all():
                lines = [self._scene_lines(index, lidar, moved) for index in (after, after + 1)]
                shots.append(make_shot(t_ns, grey, SceneLines.together(lines), self.recording.track))
        return shots

    def _scene_lines(self, index: int, lidar: Transform, moved: Estimate | None) -> SceneLines:
        """Return the lines of a sweep where the rig's place of the LiDAR puts them.

        What stands on the road, and what is above the sensors, is told by where the LiDAR really is, as far as that is
        sure: a LiDAR that nods takes the road for something else.
        """
        key = (_key(lidar), index)
        if key not in self._lines:
            true = lidar if moved is None else displaced(lidar, _surely(moved))
            self._lines[key] = scene_lines(self.recording.sweeps[index], true).moved(lidar @ true.inverse())
        return self._lines[key]


def _surely(estimate: Estimate) -> Float:
    sure = np.abs(estimate.moved) > np.maximum(SURE * estimate.deviation, LEAST)
    return np.where(sure, estimate.moved, 0.0)


def _key(place: Transform) -> bytes:
    return place.translation_m.tobytes() + place.rotation_xyzw.tobytes()


__all__ = ["RigCheck"]
