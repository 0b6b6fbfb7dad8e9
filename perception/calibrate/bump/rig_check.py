"""A rig held against a recording."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception.calibrate.bump.camera_edges import Shot, camera_moved, make_shot
from perception.calibrate.bump.camera_overlap import Overlap, View, cameras_against
from perception.calibrate.bump.camera_texture import camera_turned
from perception.calibrate.bump.ego_track import EgoTrack
from perception.calibrate.bump.estimate import BUMP, Estimate, displaced
from perception.calibrate.bump.findings import SHARE, SIGNIFICANT, Finding, judged
from perception.calibrate.bump.lidar_edges import SceneLines, scene_lines
from perception.calibrate.bump.lidar_motion import lidar_moved
from perception.calibrate.bump.looks import Looks
from perception.calibrate.bump.recording import Recording
from perception.calibrate.bump.surface_points import SurfacePoints
from perception.geometry.cameras import Camera
from perception.geometry.rig import Rig
from perception.geometry.transforms import Transform

Float: TypeAlias = NDArray[np.float64]
MOST_SHOTS = 40
"""Pictures that outlines are laid on; textures need those that follow each other."""
SURE = 3.0
"""Standard deviations."""
LEAST = np.array([0.003] * 3 + [0.02] * 3)
"""What of a LiDAR's motion makes no difference to what counts as road, radians and metres."""


class RigCheck:
    """Holds one recording against rigs; what was measured for a sensor's place is kept for the next rig."""

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self._stamps = np.array([sweep.t_ns for sweep in recording.sweeps], np.int64)
        self._lidar: dict[bytes, tuple[Estimate, float] | None] = {}
        self._points: dict[tuple[bytes, int], SurfacePoints] = {}
        self._looks: dict[str, Looks] = {}
        self._turned: dict[tuple[str, bytes, bytes], Estimate | None] = {}
        self._lines: dict[tuple[bytes, int], SceneLines] = {}
        self._cameras: dict[tuple[str, bytes, bytes], Estimate | None] = {}
        self._overlaps: dict[tuple[str, str, bytes, bytes, bytes], Overlap | None] = {}

    def findings(self, rig: Rig) -> list[Finding]:
        """Return one finding per sensor that the recording has: the LiDAR, then the cameras.

        Where the LiDAR moved, the cameras are judged from where it is: a degree away, lines lie on other edges, and
        surfaces are lifted from wrong places. That may make cameras look turned, even all of them and by more than the
        LiDAR is, so that the LiDAR seems to be in its place: what odometry and road alone say of it is tried as well,
        and holds where fewer sensors must have moved then.

        Raises:
            GeometryError: the rig has not all sensors of the recording.
        """
        names = (self.recording.lidar, *self.recording.pictures)
        places = {name: rig.base_link_from(rig.sensor(name).frame) for name in names}
        best = self._judged(rig, places)
        lidar, alone = best[0], self._of_lidar(places[self.recording.lidar])
        if lidar.state == "moved":
            best = [lidar, *self._judged_from(rig, places, lidar.moved)[1:]]
        if _moved(best[1:]) and alone is not None and _is_off(alone[0]):
            rest, *cameras = self._judged_from(rig, places, alone[0].moved)
            found = [replace(rest, state="moved", moved=alone[0].moved + rest.moved), *cameras]
            best = min(best, found, key=_moved)
        return best

    def _judged_from(self, rig: Rig, places: Mapping[str, Transform], moved: Float) -> list[Finding]:
        """Return the findings with the LiDAR that much from its place in the rig."""
        there = displaced(places[self.recording.lidar], moved)
        return self._judged(rig, {**places, self.recording.lidar: there})

    def _judged(self, rig: Rig, places: Mapping[str, Transform]) -> list[Finding]:
        recording = self.recording
        lidar = places[recording.lidar]
        alone = self._of_lidar(lidar)
        moved, track = None, recording.track
        if alone is not None:
            moved, short = alone
            track = track.scaled(short)
        cameras: dict[str, Estimate | None] = {}
        turned: dict[str, Estimate] = {}
        for name, pictures in recording.pictures.items():
            if not pictures:
                cameras[name] = None
                continue
            key = (name, _key(lidar), _key(places[name]))
            if key not in self._turned:
                self._turned[key] = self._of_texture(rig.camera(name), name, places[name], lidar, track)
            turn = self._turned[key]
            if key not in self._cameras:
                shots = self._shots(name, lidar, moved)
                self._cameras[key] = camera_moved(
                    rig.camera(name), places[name], shots, turn=None if turn is None else _told_turn(turn)
                )
            cameras[name] = self._cameras[key]
            if turn is not None and cameras[name] is not None:
                turned[name] = turn
        overlaps = self._of_pairs(rig, [name for name in turned if cameras[name] is not None], places, track)
        return judged((recording.lidar, moved), cameras, places, turned, overlaps)

    def _of_pairs(
        self, rig: Rig, names: Sequence[str], places: Mapping[str, Transform], track: EgoTrack
    ) -> dict[tuple[str, str], Overlap]:
        lidar = places[self.recording.lidar]
        found = {}
        for first, second in combinations(names, 2):
            key = (first, second, _key(places[first]), _key(places[second]), _key(lidar))
            if key not in self._overlaps:
                one, other = (View(self._looks[name], places[name]) for name in (first, second))
                self._overlaps[key] = cameras_against(
                    one, other, lambda t_ns: self._points_at(t_ns, lidar, track), track
                )
            told = self._overlaps[key]
            if told is not None:
                found[first, second] = told
        return found

    def _of_texture(
        self, camera: Camera, name: str, place: Transform, lidar: Transform, track: EgoTrack
    ) -> Estimate | None:
        if name not in self._looks:
            self._looks[name] = Looks(camera, self.recording.pictures[name])
        return camera_turned(self._looks[name], place, lambda t_ns: self._points_at(t_ns, lidar, track), track)

    def _points_at(self, t_ns: int, lidar: Transform, track: EgoTrack) -> SurfacePoints | None:
        after = int(np.searchsorted(self._stamps, t_ns))
        if after + 1 >= len(self._stamps):
            return None
        key = (_key(lidar), t_ns)
        if key not in self._points:
            self._points[key] = SurfacePoints.around(t_ns, self.recording.sweeps[after : after + 2], lidar, track)
        return self._points[key]

    def _of_lidar(self, place: Transform) -> tuple[Estimate, float] | None:
        key = _key(place)
        if key not in self._lidar:
            self._lidar[key] = lidar_moved(self.recording.sweeps, place, self.recording.track)
        return self._lidar[key]

    def _shots(self, camera: str, lidar: Transform, moved: Estimate | None) -> list[Shot]:
        shots = []
        pictures = self.recording.pictures[camera]
        for t_ns, grey in pictures[:: max(1, len(pictures) // MOST_SHOTS)]:
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


def _is_off(estimate: Estimate) -> bool:
    """Whether an estimate alone says that a sensor moved."""
    off = np.abs(estimate.moved)
    return bool(((off > SHARE * BUMP) & (off > np.sqrt(SIGNIFICANT) * estimate.deviation)).any())


def _told_turn(estimate: Estimate) -> Float:
    """Return the turn (3,) about those axes of which an estimate tells."""
    return np.where(estimate.deviation < SHARE * BUMP, estimate.moved, 0.0)[:3]


def _moved(findings: Sequence[Finding]) -> int:
    return sum(finding.state == "moved" for finding in findings)


def _surely(estimate: Estimate) -> Float:
    sure = np.abs(estimate.moved) > np.maximum(SURE * estimate.deviation, LEAST)
    return np.where(sure, estimate.moved, 0.0)


def _key(place: Transform) -> bytes:
    return place.translation_m.tobytes() + place.rotation_xyzw.tobytes()


__all__ = ["RigCheck"]
