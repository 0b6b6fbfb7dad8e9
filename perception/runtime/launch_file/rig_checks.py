"""Read a rig's folder with the line of every value, and check that it can be a car."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from perception.errors import GeometryError
from perception.geometry.frames import ROOT, FrameTree
from perception.geometry.rig import Rig, edge_of, rig_of_documents
from perception.geometry.rig_file import CameraFile, RigFile, TransformFile
from perception.geometry.transforms import Transform
from perception.runtime.launch_file.camera_checks import check_camera
from perception.runtime.launch_file.faults import Faults
from perception.runtime.launch_file.files import validated, validated_in_part
from perception.runtime.launch_file.yaml_lines import Document, read_yaml

FARTHEST_M = 15.0
STEEPEST_DEG = 75.0
SIDEWAYS = math.sin(math.radians(45))
CAMERAS = ("camera", "event_camera")


@dataclass
class RigDocuments:
    """The parsed files of a rig, with their lines."""

    rig: Document
    file: RigFile
    cameras: dict[str, tuple[Document, CameraFile]]


@dataclass(frozen=True)
class ReadRig:
    """A rig as far as it can be read; sensors with faulty numbers stand at base_link, so that the graph is checked."""

    rig: Rig | None
    hidden: frozenset[str] = frozenset()
    """Sensors that were left out."""
    unsound: frozenset[str] = frozenset()
    """Sensors whose numbers have faults."""


def read_rig(folder: Path, faults: Faults) -> ReadRig:
    """Read and check a rig and the calibrations that it names."""
    rig_yaml = folder / "rig.yaml"
    if not rig_yaml.is_file():
        faults.add(
            "rig-missing", folder, 1, "no rig is there", "a folder with rig.yaml, such as calibration/simulated_car"
        )
        return ReadRig(None)
    document = read_yaml(rig_yaml, faults, {("sensors",): "sensor-twice"})
    if document is None:
        return ReadRig(None)
    turned_wrong = _check_rotations(document, faults)
    file = validated_in_part(document, RigFile, faults, ("sensors", "transforms"), {"name": "unnamed"})
    if file is None:
        return ReadRig(None)
    cameras = _read_cameras(folder, document, file, faults)
    documents = RigDocuments(document, file, cameras)
    sound = _check_frames(documents, faults, turned_wrong)
    unsound = {name for name, sensor in file.sensors.items() if sensor.kind in CAMERAS and name not in cameras}
    for name, (camera_document, camera) in cameras.items():
        before = len(faults)
        check_camera(name, camera_document, camera, document, file.sensors[name], faults)
        if len(faults) > before:
            unsound.add(name)
    placed = {n for n, sensor in file.sensors.items() if (sensor.frame or n) in sound or sensor.kind == "odometry"}
    rig = _rig_of_what_is_sound(documents, sound, unsound, {*file.sensors} - placed)
    unsound |= _check_places(rig, documents, placed, faults) | ({*file.sensors} - placed)
    return ReadRig(rig, frozenset(document.lost("sensors")), frozenset(unsound))


def _rig_of_what_is_sound(documents: RigDocuments, sound: set[str], unsound: set[str], unplaced: set[str]) -> Rig:
    """Make the rig of the transforms of sound frames and sound cameras; sensors without a place stand at base_link."""
    file, cameras = documents.file, documents.cameras
    here = TransformFile(translation_m=(0.0, 0.0, 0.0), rotation_xyzw=(0.0, 0.0, 0.0, 1.0))
    transforms = {key: value for key, value in file.transforms.items() if _child(key) in sound}
    frames = {file.sensors[name].frame or name for name in unplaced} - {ROOT}
    transforms |= {f"{ROOT}_from_{frame}": here for frame in sorted(frames)}
    used = {"rig.yaml": documents.rig.file.read_bytes()}
    used |= {camera.file.name: camera.file.read_bytes() for camera, _ in cameras.values()}
    intrinsics = {name: camera for name, (_, camera) in cameras.items() if name not in unsound}
    return rig_of_documents(file.model_copy(update={"transforms": transforms}), intrinsics, used)


def _child(key: str) -> str:
    try:
        return edge_of(key)[1]
    except GeometryError:
        return ""


def _check_rotations(document: Document, faults: Faults) -> set[str]:
    """Return the keys of transforms that cannot be used."""
    wrong: set[str] = set()
    transforms = document.values.get("transforms")
    for key, entry in transforms.items() if isinstance(transforms, dict) else ():
        line, before = document.line("transforms", key), len(faults)
        try:
            edge_of(key)
        except GeometryError as error:
            faults.add("transform-name", document.file, line, str(error), "a name like base_link_from_lidar")
        rotation = entry.get("rotation_xyzw") if isinstance(entry, dict) else None
        if isinstance(rotation, list) and len(rotation) == 4 and all(map(_is_number, rotation)):
            length = math.hypot(*rotation)
            if abs(length - 1) > 1e-2:
                faults.add(
                    "rotation", document.file, line, f"'{key}' has a quaternion of length {length:.4g}", "length 1"
                )
        matrix = entry.get("rotation_matrix") if isinstance(entry, dict) else None
        values = np.array(matrix, np.float64) if _is_matrix(matrix) else None
        if values is not None and np.linalg.det(values) < 0:
            faults.add(
                "rotation-mirrored",
                document.file,
                line,
                f"'{key}' is mirrored",
                "a right-handed rotation, determinant 1",
            )
        elif values is not None and np.abs(values @ values.T - np.eye(3)).max() > 1e-3:
            faults.add("rotation", document.file, line, f"'{key}' is not orthonormal", "a rotation matrix")
        if len(faults) > before:
            wrong.add(key)
    return wrong


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9


def _is_matrix(value: object) -> bool:
    rows = value if isinstance(value, list) else []
    return len(rows) == 3 and all(isinstance(row, list) and len(row) == 3 and all(map(_is_number, row)) for row in rows)


def _read_cameras(
    folder: Path, document: Document, file: RigFile, faults: Faults
) -> dict[str, tuple[Document, CameraFile]]:
    found: dict[str, tuple[Document, CameraFile]] = {}
    owner: dict[str, str] = {}
    serials: dict[str, str] = {}
    for name, sensor in file.sensors.items():
        if sensor.serial and serials.setdefault(sensor.serial, name) != name:
            faults.add(
                "serial-twice", document.file, document.line("sensors", name, "serial"),
                f"'{name}' and '{serials[sensor.serial]}' both have serial {sensor.serial}", "a serial of its own",
            )  # fmt: skip
            continue
        line = document.line("sensors", name, "calibration")
        if not sensor.calibration:
            if sensor.kind in CAMERAS:
                faults.add(
                    "camera-calibration",
                    document.file,
                    line,
                    f"camera '{name}' has no calibration",
                    "calibration: FILE",
                )
            continue
        if sensor.calibration in owner:
            other = owner[sensor.calibration]
            faults.add(
                "calibration-of-another", document.file, line, f"'{name}' uses the calibration of '{other}'",
                "a file of its own: no two cameras have one lens",
            )  # fmt: skip
            continue
        owner[sensor.calibration] = name
        camera_document = read_yaml(folder / sensor.calibration, faults)
        camera = validated(camera_document, CameraFile, faults) if camera_document is not None else None
        if camera_document is not None and camera is not None:
            found[name] = (camera_document, camera)
            if sensor.serial and camera.serial and sensor.serial != camera.serial:
                faults.add(
                    "calibration-of-another", document.file, line,
                    f"'{name}' has serial {sensor.serial}, {sensor.calibration} is of {camera.serial}",
                    "the calibration of this camera",
                )  # fmt: skip
    return found


def _check_frames(documents: RigDocuments, faults: Faults, turned_wrong: set[str]) -> set[str]:
    """Return the frames whose place on the rig is known: all of their chain is sound."""
    document, file = documents.rig, documents.file
    parents: dict[str, str] = {}
    twice: set[str] = set()
    misnamed = [*documents.rig.lost("transforms")]
    for key in file.transforms:
        line = document.line("transforms", key)
        try:
            parent, child = edge_of(key)
        except GeometryError:
            misnamed.append(key)
            continue
        if child in parents:
            twice.add(child)
            faults.add(
                "frame-parents", document.file, line, f"frame '{child}' hangs on '{parents[child]}' too", "one parent"
            )
        parents.setdefault(child, parent)
    sound = {ROOT}
    for child, parent in parents.items():
        path = [child]
        while path[-1] in parents and path[-1] != ROOT and len(path) <= len(parents) + 1:
            path.append(parents[path[-1]])
        line = document.line("transforms", f"{parent}_from_{child}")
        if len(path) > len(parents) + 1:
            faults.add(
                "frame-loop", document.file, line, f"frame '{child}' is in a loop", "a tree with the root base_link"
            )
        elif child == ROOT:
            faults.add("frame-orphan", document.file, line, f"{ROOT} hangs on '{parent}'", f"{ROOT} as the root")
        elif path[-1] == ROOT:
            keys = [f"{above}_from_{below}" for below, above in pairwise(path)]
            sound |= set() if turned_wrong & {*keys} or twice & {*path} else {child}
        else:
            faults.add("frame-orphan", document.file, line, f"'{child}' hangs on '{path[-1]}'", f"a chain to {ROOT}")
    for name, sensor in file.sensors.items():
        frame = sensor.frame or name
        placed = frame in parents or frame == ROOT or any(frame in key for key in misnamed)
        if sensor.kind != "odometry" and not placed:
            line = document.line("sensors", name)
            faults.add(
                "sensor-no-frame", document.file, line, f"'{name}' has no place on the rig", f"base_link_from_{frame}"
            )
    return sound


def _check_places(rig: Rig, documents: RigDocuments, placed: set[str], faults: Faults) -> set[str]:
    """Return the sensors with faults; those that are not `placed` have none here."""
    file, unsound = documents.rig.file, set[str]()
    poses: list[tuple[str, Transform]] = []
    for name, sensor in rig.sensors.items():
        before = len(faults)
        if sensor.kind == "lidar":
            _check_lidar_numbers(name, documents, faults)
        if sensor.kind == "odometry" or name not in placed:
            unsound |= {name} if len(faults) > before else set()
            continue
        pose, line = (
            rig.base_link_from(sensor.frame),
            documents.rig.line("transforms", _key_of(rig.frames, documents.file.sensors[name].frame or name)),
        )
        x, y, z = (float(n) for n in pose.translation_m)
        if z < 0:
            faults.add(
                "sensor-below-road", file, line, f"'{name}' is {-z:.2f} m below the road", "a height above base_link"
            )
        if max(abs(x), abs(y), abs(z)) > FARTHEST_M:
            faults.add(
                "sensor-far",
                file,
                line,
                f"'{name}' is at ({x:g}, {y:g}, {z:g}) m",
                f"at most {FARTHEST_M:g} m from base_link; are these millimetres?",
            )
        if sensor.kind == "lidar" and float(pose.rotation[2, 2]) < 0:
            faults.add(
                "lidar-upside-down", file, line, f"the z axis of '{name}' points down",
                "z up; or is it mounted so? Then turn its frame",
            )  # fmt: skip
        if sensor.kind in CAMERAS:
            tilt = math.degrees(math.asin(max(-1.0, min(1.0, float(pose.rotation[2, 2])))))
            if abs(tilt) > STEEPEST_DEG:
                faults.add(
                    "camera-direction",
                    file,
                    line,
                    f"'{name}' looks {abs(tilt):.0f} degrees {'up' if tilt > 0 else 'down'}",
                    "a view of the road ahead, beside or behind",
                )
            elif abs(float(pose.rotation[2, 0])) > SIDEWAYS or float(pose.rotation[2, 1]) > 0:
                faults.add(
                    "camera-rolled", file, line, f"the picture of '{name}' is turned on its side or head",
                    "the rotation of its frame with x forward, not of its optical frame",
                )  # fmt: skip
        poses.append((name, pose))
        unsound |= {name} if len(faults) > before else set()
    for (first, a), (second, b) in pairwise(sorted(poses, key=lambda item: tuple(item[1].translation_m))):
        if np.allclose(a.matrix, b.matrix, atol=1e-6) and rig.sensors[first].kind == rig.sensors[second].kind:
            line = documents.rig.line("transforms", _key_of(rig.frames, documents.file.sensors[second].frame or second))
            faults.add(
                "sensor-same-place", file, line, f"'{second}' is exactly where '{first}' is", "a place of its own"
            )
            unsound |= {first, second}
    return unsound


def _check_lidar_numbers(name: str, documents: RigDocuments, faults: Faults) -> None:
    file, lidar = documents.rig.file, documents.file.sensors[name].lidar
    if lidar is None:
        at = documents.rig.line("sensors", name)
        faults.add(
            "lidar-numbers",
            file,
            at,
            f"'{name}' does not say what it measures",
            "lidar: {rings, range_m, vertical_fov_deg}",
        )
        return
    at = documents.rig.line("sensors", name, "lidar")
    (near, far), (low, high) = lidar.range_m, lidar.vertical_fov_deg
    left, right = lidar.horizontal_fov_deg
    if not (0 <= near < far <= 1000 and -90 <= low < high <= 90 and left < right <= left + 360):
        faults.add(
            "lidar-numbers",
            file,
            at,
            f"'{name}' measures {near:g} to {far:g} m, {low:g} to {high:g} degrees up, {left:g} to {right:g} across",
            "near < far, low < high, left < right",
        )


def _key_of(frames: FrameTree, frame: str) -> str:
    return f"{frames.parents.get(frame, ROOT)}_from_{frame}"


__all__ = ["ReadRig", "RigDocuments", "read_rig"]
