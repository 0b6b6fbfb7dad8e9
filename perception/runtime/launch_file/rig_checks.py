"""Read a rig's folder with the line of every value, and check that it can be a car."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from perception.errors import GeometryError
from perception.geometry.cameras import Camera
from perception.geometry.frames import ROOT, FrameTree
from perception.geometry.rig import Rig, edge_of, rig_of_documents
from perception.geometry.rig_file import CameraFile, RigFile, SensorFile
from perception.geometry.transforms import Transform
from perception.runtime.launch_file.faults import Faults
from perception.runtime.launch_file.files import validated
from perception.runtime.launch_file.yaml_lines import Document, read_yaml

FARTHEST_M = 15.0
STEEPEST_DEG = 75.0
CAMERAS = ("camera", "event_camera")


@dataclass
class RigDocuments:
    """The parsed files of a rig, with their lines."""

    rig: Document
    file: RigFile
    cameras: dict[str, tuple[Document, CameraFile]]


def read_rig(folder: Path, faults: Faults) -> tuple[Rig, RigDocuments] | None:
    """Read and check a rig; None where a fault leaves no rig to go on with."""
    rig_yaml = folder / "rig.yaml"
    if not rig_yaml.is_file():
        faults.add(
            "rig-missing", folder, 1, "no rig is there", "a folder with rig.yaml, such as calibration/simulated_car"
        )
        return None
    before = len(faults.all())
    document = read_yaml(rig_yaml, faults, {("sensors",): "sensor-twice"})
    if document is None:
        return None
    _check_rotations(document, faults)
    file = validated(document, RigFile, faults)
    if file is None:
        return None
    cameras = _read_cameras(folder, document, file, faults)
    documents = RigDocuments(document, file, cameras)
    _check_frames(documents, faults)
    for name, (camera_document, camera) in cameras.items():
        _check_camera(name, camera_document, camera, documents, faults)
    if len(faults.all()) > before:
        return None
    try:
        used = {"rig.yaml": rig_yaml.read_bytes()}
        used |= {
            camera_document.file.name: camera_document.file.read_bytes() for camera_document, _ in cameras.values()
        }
        rig = rig_of_documents(file, {name: camera for name, (_, camera) in cameras.items()}, used)
    except GeometryError as error:
        faults.add("sensor-no-frame", rig_yaml, 1, str(error), "numbers that a rig can have")
        return None
    _check_places(rig, documents, faults)
    return rig, documents


def _check_rotations(document: Document, faults: Faults) -> None:
    transforms = document.values.get("transforms")
    for key, entry in transforms.items() if isinstance(transforms, dict) else ():
        line = document.line("transforms", key)
        try:
            edge_of(key)
        except GeometryError as error:
            faults.add("transform-name", document.file, line, str(error), "a name like base_link_from_lidar")
        rotation = entry.get("rotation_xyzw") if isinstance(entry, dict) else None
        if isinstance(rotation, list) and len(rotation) == 4 and all(isinstance(n, int | float) for n in rotation):
            length = math.sqrt(sum(float(n) ** 2 for n in rotation))
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


def _is_matrix(value: object) -> bool:
    rows = value if isinstance(value, list) else []
    return len(rows) == 3 and all(
        isinstance(row, list) and len(row) == 3 and all(isinstance(n, int | float) for n in row) for row in rows
    )


def _read_cameras(
    folder: Path, document: Document, file: RigFile, faults: Faults
) -> dict[str, tuple[Document, CameraFile]]:
    found: dict[str, tuple[Document, CameraFile]] = {}
    owner: dict[str, str] = {}
    for name, sensor in file.sensors.items():
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


def _check_frames(documents: RigDocuments, faults: Faults) -> None:
    document, file = documents.rig, documents.file
    parents: dict[str, str] = {}
    misnamed: list[str] = []
    for key in file.transforms:
        line = document.line("transforms", key)
        try:
            parent, child = edge_of(key)
        except GeometryError:
            misnamed.append(key)
            continue
        if child in parents:
            faults.add(
                "frame-parents", document.file, line, f"frame '{child}' hangs on '{parents[child]}' too", "one parent"
            )
        parents.setdefault(child, parent)
    for child, parent in parents.items():
        path = [child]
        while path[-1] in parents and len(path) <= len(parents) + 1:
            path.append(parents[path[-1]])
        line = document.line("transforms", f"{parent}_from_{child}")
        if len(path) > len(parents) + 1:
            faults.add(
                "frame-loop", document.file, line, f"frame '{child}' is in a loop", "a tree with the root base_link"
            )
        elif path[-1] != ROOT:
            faults.add("frame-orphan", document.file, line, f"'{child}' hangs on '{path[-1]}'", f"a chain to {ROOT}")
    for name, sensor in file.sensors.items():
        frame = sensor.frame or name
        placed = frame in parents or frame == ROOT or any(frame in key for key in misnamed)
        if sensor.kind != "odometry" and not placed:
            line = document.line("sensors", name)
            faults.add(
                "sensor-no-frame", document.file, line, f"'{name}' has no place on the rig", f"base_link_from_{frame}"
            )


def _check_camera(name: str, document: Document, camera: CameraFile, documents: RigDocuments, faults: Faults) -> None:
    sensor: SensorFile = documents.file.sensors[name]
    file, at = document.file, document.line
    size = (camera.width_px, camera.height_px)
    if sensor.image is not None and (sensor.image.width_px, sensor.image.height_px) != size:
        delivered = f"{sensor.image.width_px} x {sensor.image.height_px}"
        faults.add(
            "intrinsics-size", file, at("width_px"), f"is of {size[0]} x {size[1]}, '{name}' delivers {delivered}",
            "intrinsics of the delivered size",
        )  # fmt: skip
    (cx, cy), (fx, fy) = camera.center_px, camera.focal_px
    if not (0 <= cx < size[0] and 0 <= cy < size[1]):
        faults.add(
            "intrinsics-center",
            file,
            at("center_px"),
            f"({cx:g}, {cy:g}) lies outside {size[0]} x {size[1]}",
            "a point inside",
        )
    elif camera.model != "ocam" and not _is_lens(camera):
        faults.add(
            "intrinsics-focal",
            file,
            at("focal_px"),
            f"({fx:g}, {fy:g}) on {size[0]} x {size[1]} pixels",
            "a view of 2 to 220 degrees, fx about fy",
        )
    if sensor.exposure_ms > 1000 / sensor.rate_hz:
        line = documents.rig.line("sensors", name, "exposure_ms")
        faults.add(
            "exposure",
            documents.rig.file,
            line,
            f"'{name}' exposes {sensor.exposure_ms:g} ms at {sensor.rate_hz:g} Hz",
            "less than the period",
        )
    try:
        made = Camera(camera.model, *size, camera.focal_px, camera.center_px, camera.coefficients)
    except GeometryError as error:
        code = "coefficients" if "coefficients" in str(error) else "intrinsics-focal"
        faults.add(code, file, at("coefficients"), str(error), "what the model has")
        return
    if camera.model in ("plumb_bob", "rational_polynomial"):
        width, height = size
        border = np.array(
            [(0, 0), (width - 1, 0), (0, height - 1), (width - 1, height - 1), (width / 2, 0), (0, height / 2)]
        )
        if not made.unproject(border)[1].all():
            faults.add(
                "distortion-folds",
                file,
                at("coefficients"),
                "a corner of the picture has no ray",
                "coefficients that hold up to the corners",
            )


def _is_lens(camera: CameraFile) -> bool:
    fx, fy = camera.focal_px
    if min(fx, fy) <= 0 or not 0.5 < fx / fy < 2:
        return False
    half = camera.width_px / 2 / fx
    angle = 2 * half if camera.model in ("kannala_brandt", "double_sphere") else 2 * math.atan(half)
    return 2 < math.degrees(angle) < (360 if camera.model in ("kannala_brandt", "double_sphere") else 170)


def _check_places(rig: Rig, documents: RigDocuments, faults: Faults) -> None:
    file = documents.rig.file
    poses: list[tuple[str, Transform]] = []
    for name, sensor in rig.sensors.items():
        if sensor.kind == "odometry":
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
        if sensor.kind == "lidar":
            _check_lidar(name, pose, documents, faults, line)
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
        poses.append((name, pose))
    for (first, a), (second, b) in pairwise(sorted(poses, key=lambda item: tuple(item[1].translation_m))):
        if np.allclose(a.matrix, b.matrix, atol=1e-6) and rig.sensors[first].kind == rig.sensors[second].kind:
            line = documents.rig.line("transforms", _key_of(rig.frames, documents.file.sensors[second].frame or second))
            faults.add(
                "sensor-same-place", file, line, f"'{second}' is exactly where '{first}' is", "a place of its own"
            )


def _check_lidar(name: str, pose: Transform, documents: RigDocuments, faults: Faults, line: int) -> None:
    file, lidar = documents.rig.file, documents.file.sensors[name].lidar
    if float(pose.rotation[2, 2]) < 0:
        faults.add(
            "lidar-upside-down",
            file,
            line,
            f"the z axis of '{name}' points down",
            "z up; or is it mounted so? Then turn its frame",
        )
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
    if not (0 <= near < far <= 1000 and -90 <= low < high <= 90):
        faults.add(
            "lidar-numbers",
            file,
            at,
            f"'{name}' measures {near:g} to {far:g} m, {low:g} to {high:g} degrees",
            "near < far, low < high",
        )


def _key_of(frames: FrameTree, frame: str) -> str:
    return f"{frames.parents.get(frame, ROOT)}_from_{frame}"


__all__ = ["RigDocuments", "read_rig"]
