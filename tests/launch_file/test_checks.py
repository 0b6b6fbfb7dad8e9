"""One seeded fault for every kind that `perception check` knows: the code, the file and the line are right, and nothing
else is reported.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from perception.runtime.launch_file import graph_checks
from perception.runtime.launch_file.faults import CODES, Fault
from perception.runtime.launch_file.load import check_launch, load_launch

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
LAUNCH, RIG, FRONT, REAR = (
    "car.yaml",
    "simulated_car/rig.yaml",
    "simulated_car/cam_front.yaml",
    "simulated_car/cam_rear.yaml",
)


MIRROR = """
from perception.messages import Detections3D, PointCloud
from perception.runtime.node import Node, On, Out


class Mirror(Node):
    detections = On[Detections3D]()
    cloud = Out[PointCloud]()
"""


@dataclass(frozen=True)
class Seed:
    """One fault: text of a file that is replaced, and a text of the line that must be named afterwards."""

    code: str
    file: str
    old: str
    new: str
    line: str
    named: str = ""
    """The file that is named, where it is another than the edited one."""
    also: tuple[str, str] = ("", "")
    """Text of the launch file that must be another for this fault to stand alone."""


SEEDS = (
    # the file itself
    Seed("file-missing", RIG, "calibration: cam_rear.yaml", "calibration: cam_back.yaml", "", named="simulated_car/cam_back.yaml"),
    Seed("not-yaml", LAUNCH, "name: car\n", "name: [car\n", ""),
    Seed("not-yaml", FRONT, "model: plumb_bob", "model: !!python/name:os.system", "model:"),
    Seed("duplicate-key", LAUNCH, "  fuser:\n    node: fuser\n", "  fuser:\n    node: fuser\n    node: simulator\n", "node: simulator\n    process: fusion"),
    Seed("file-too-large", LAUNCH, "name: car\n", "name: &n car\nrig: *n\n", ""),
    Seed("unknown-key", LAUNCH, "score_min: 0.1", "score_mim: 0.1", "score_mim"),
    Seed("unknown-key", RIG, "kind: lidar\n    rate_hz: 10", "kind: lidar\n    rate_herz: 10\n    rate_hz: 10", "rate_herz"),
    Seed("missing-key", LAUNCH, "rig: simulated_car # a folder in calibration/, or a path\n", "", ""),
    Seed("missing-key", FRONT, "focal_px: [190.0, 190.0]\n", "", ""),
    Seed("wrong-type", LAUNCH, "score_min: 0.1", "score_min: high", "score_min"),
    Seed("wrong-type", LAUNCH, "required: true, deadline_ms: 6000", "required: true, deadline_ms: -1", "deadline_ms: -1"),
    Seed("wrong-type", RIG, "rate_hz: 50", "rate_hz: fast", "rate_hz: fast"),
    Seed("wrong-type", RIG, "rate_hz: 50", "rate_hz: yes", "rate_hz: yes"),
    Seed("wrong-type", RIG, "rate_hz: 50", 'rate_hz: "50"', 'rate_hz: "50"'),
    Seed("wrong-type", LAUNCH, "lost_after_ms: 2000", "lost_after_ms: .inf", "lost_after_ms: .inf"),
    Seed("wrong-type", RIG, "exposure_ms: 2}\n  cam_rear", "exposure_ms: -2}\n  cam_rear", "exposure_ms: -2"),
    Seed("bad-name", LAUNCH, "name: car", "name: ../car", "name: ../car"),
    Seed("bad-name", LAUNCH, "process: fusion", "process: ../fusion", "process: ../fusion"),
    # the graph
    Seed("unknown-node", LAUNCH, "node: lidar_detector", "node: lidar_detektor", "node: lidar_detektor"),
    Seed("unknown-node", LAUNCH, "node: lidar_detector", "node: ./detector.py:Mine", "node: ./detector.py"),
    Seed("not-a-node", LAUNCH, "node: lidar_detector", "node: json:JSONDecoder", "node: json:JSONDecoder"),
    Seed("unknown-input", LAUNCH, "inputs: {sweep: lidar/points}", "inputs: {sweep: lidar/points, sweeep: lidar/points}", "sweeep"),
    Seed("unknown-output", LAUNCH, "inputs: {sweep: lidar/points}", "inputs: {sweep: lidar/points}\n    outputs: {boxes: b}", "outputs: {boxes"),
    Seed("source-settings", LAUNCH, "cam_rear, ego]", "cam_raer, ego]", "settings: {seed"),
    Seed("input-missing", LAUNCH, "    inputs: {sweep: lidar/points}\n", "", "  detector:"),
    Seed("dangling-topic", LAUNCH, "inputs: {sweep: lidar/points}", "inputs: {sweep: lidar/point}", "lidar/point}"),
    Seed("dangling-topic", LAUNCH, "inputs: {image: [cam_front/image, cam_rear/image]}", "inputs: {image: [cam_front/image, cam_rear/image, top_*/image]}", "top_*"),
    Seed("topic-type", LAUNCH, "inputs: {sweep: lidar/points}", "inputs: {sweep: cam_front/image}", "sweep: cam_front"),
    Seed("topic-twice", LAUNCH, "  fuser:\n", "  again:\n    node: lidar_detector\n    settings: {weights: \"filled:dsvt_pillar_120\"}\n    inputs: {sweep: lidar/points}\n    outputs: {detections: detector/detections}\n  fuser:\n", "  again:"),
    Seed("output-dangling", LAUNCH, "painted: {topic: fuser/painted}", "painted: {topic: fuser/paint}", "fuser/paint}"),
    Seed("output-twice", LAUNCH, "painted: {topic: fuser/painted}", "objects: {topic: fuser/painted}", "objects: {topic: fuser/painted}"),
    Seed("output-twice", LAUNCH, "painted: {topic: fuser/painted}", "state: {topic: fuser/painted}", "state: {topic"),
    Seed("output-twice", LAUNCH, "painted: {topic: fuser/painted}", "masks: {topic: segmenter/*/mask}", "masks: {topic"),
    Seed("node-cycle", LAUNCH, "inputs: {sweep: lidar/points}", "inputs: {sweep: detector/sweep}\n  mirror:\n    node: ./mirror.py:Mirror\n    inputs: {detections: detector/detections}\n    outputs: {cloud: detector/sweep}", "  detector:"),
    Seed("join-reference", LAUNCH, "scene.sweep: lidar/points", "scene.sweep: [lidar/points, cam_front/image]", "scene.sweep"),
    Seed("join-latest", LAUNCH, "scene.boxes: detector/detections", "scene.boxes: {topics: detector/detections, keep: latest}", "scene.boxes"),
    Seed("unpaced-branches", LAUNCH, "    paced_by: detector # the slowest branch chooses the instants, and every branch gets exactly those\n", "", "  fuser:"),
    Seed("paced-by", LAUNCH, "paced_by: detector", "paced_by: nobody", "paced_by"),
    Seed("process-hosts", LAUNCH, "    node: lidar_detector\n", "    node: lidar_detector\n    host: box\n", "host: box", also=("ego_motion: ego", "ego_motion: ego\nnetwork: {rig_interface: 192.168.7.1, hosts: {box: 192.168.7.2}}")),
    Seed("endpoint", LAUNCH, "endpoint: tcp://127.0.0.1:5560", "endpoint: tcp://127.0.0.1", "endpoint"),
    Seed("endpoint-open", LAUNCH, "endpoint: tcp://127.0.0.1:5560", "endpoint: tcp://0.0.0.0:5560", "endpoint"),
    Seed("output-late", LAUNCH, "painted: {topic: fuser/painted}", "painted: {topic: fuser/painted, on_late: skip}", "painted: {"),
    Seed("output-late", LAUNCH, "deadline_ms: 6000}", "deadline_ms: 6000, on_late: fallback detector}", "on_late: fallback"),
    Seed("rig-interface", LAUNCH, "ego_motion: ego", "network: {rig_interface: 8.8.8.8}\nego_motion: ego", "network"),
    Seed("rig-interface", LAUNCH, "ego_motion: ego", "network: {rig_interface: 192.168.7.1, hosts: {box: 8.8.4.4}}\nego_motion: ego", "network"),
    Seed("health-sensor", LAUNCH, "  cam_front: {required: true", "  cam_fron: {required: true", "cam_fron:"),
    # time
    Seed("deadline-too-short", LAUNCH, "required: true, deadline_ms: 6000", "required: true, deadline_ms: 500", "deadline_ms: 500"),
    Seed("tolerance-too-wide", LAUNCH, "tolerance_ms: 95", "tolerance_ms: 400", "tolerance_ms"),
    Seed("join-deadline", LAUNCH, "deadline_ms: 4000", "deadline_ms: 100", "deadline_ms: 100"),
    Seed("stage-too-slow", LAUNCH, "inputs: {image: [cam_front/image, cam_rear/image]}\n    stage_ms: 90", "inputs: {image: {topics: [cam_front/image, cam_rear/image], keep: all}}\n    stage_ms: 190", "stage_ms: 190", also=("    paced_by: detector # the slowest branch chooses the instants, and every branch gets exactly those\n", "")),
    Seed("tolerance-too-tight", LAUNCH, "tolerance_ms: 95, deadline_ms: 4000, on_missing: continue", "tolerance_ms: 20, deadline_ms: 4000, on_missing: skip", "tolerance_ms"),
    Seed("join-history", LAUNCH, "on_missing: continue", "on_missing: continue, history_ms: 200", "history_ms"),
    Seed("clocks", RIG, "{kind: camera, rate_hz: 5, serial: sim-rear", "{kind: camera, rate_hz: 5, clock: free, serial: sim-rear", "scene:", named=LAUNCH),
    Seed("no-ego-motion", LAUNCH, "ego_motion: ego", "ego_motion: lidar/points", "ego_motion"),
    Seed("lost-too-soon", LAUNCH, "lidar: {required: true, lost_after_ms: 2000}", "lidar: {required: true, lost_after_ms: 50}", "lost_after_ms: 50"),
    Seed("memory", LAUNCH, "inputs: {sweep: lidar/points}", "inputs: {sweep: {topics: lidar/points, keep: all, bound: 10000}}", "nodes:"),
    # the rig
    Seed("rig-missing", LAUNCH, "rig: simulated_car", "rig: my_car", "rig: my_car"),
    Seed("sensor-twice", RIG, "  ego: {kind: odometry, rate_hz: 50}", "  cam_rear: {kind: camera, rate_hz: 5, calibration: cam_rear.yaml}\n  ego: {kind: odometry, rate_hz: 50}", "calibration: cam_rear.yaml}\n  ego"),
    Seed("transform-name", RIG, "base_link_from_cam_rear", "cam_rear_to_base_link", "cam_rear_to_base_link"),
    Seed("rotation", RIG, "rotation_xyzw: [0.0, 0.0, 1.0, 0.0]", "rotation_xyzw: [0.0, 0.0, 1.0, 1.0]", "base_link_from_cam_rear"),
    Seed("rotation", RIG, "rotation_xyzw: [0.0, 0.0, 1.0, 0.0]", "rotation_matrix: [[-1, 0, 0.2], [0, -1, 0], [0, 0, 1]]", "base_link_from_cam_rear"),
    Seed("rotation-mirrored", RIG, "rotation_xyzw: [0.0, 0.0, 1.0, 0.0]", "rotation_matrix: [[-1, 0, 0], [0, 1, 0], [0, 0, 1]]", "base_link_from_cam_rear"),
    Seed("frame-loop", RIG, "  base_link_from_cam_rear:", "  cam_rear_from_mast: {translation_m: [0, 0, 1], rotation_xyzw: [0, 0, 0, 1]}\n  mast_from_cam_rear:", "mast_from_cam_rear"),
    Seed("frame-loop", RIG, "base_link_from_cam_rear", "cam_rear_from_cam_rear", "cam_rear_from_cam_rear"),
    Seed("frame-orphan", RIG, "base_link_from_cam_rear", "trailer_from_cam_rear", "trailer_from_cam_rear"),
    Seed("frame-orphan", RIG, "base_link_from_cam_rear", "map_from_base_link: {translation_m: [0, 0, 0], rotation_xyzw: [0, 0, 0, 1]}\n  base_link_from_cam_rear", "map_from_base_link"),
    Seed("frame-parents", RIG, "  base_link_from_cam_rear:", "  lidar_from_cam_rear: {translation_m: [0, 0, 1], rotation_xyzw: [0, 0, 0, 1]}\n  base_link_from_cam_rear:", "base_link_from_cam_rear"),
    Seed("sensor-no-frame", RIG, "  base_link_from_cam_rear: {translation_m: [-0.6, 0.0, 1.4], rotation_xyzw: [0.0, 0.0, 1.0, 0.0]}", "", "cam_rear: {kind"),
    Seed("sensor-below-road", RIG, "translation_m: [-0.6, 0.0, 1.4]", "translation_m: [-0.6, 0.0, -1.4]", "base_link_from_cam_rear"),
    Seed("sensor-far", RIG, "translation_m: [-0.6, 0.0, 1.4]", "translation_m: [-600, 0.0, 1400]", "base_link_from_cam_rear"),
    Seed("sensor-same-place", RIG, "{translation_m: [-0.6, 0.0, 1.4], rotation_xyzw: [0.0, 0.0, 1.0, 0.0]}", "{translation_m: [1.9, 0.0, 1.5], rotation_xyzw: [0.0, 0.0, 0.0, 1.0]}", "base_link_from_cam_rear"),
    Seed("lidar-upside-down", RIG, "{translation_m: [1.2, 0.0, 1.9], rotation_xyzw: [0.0, 0.0, 0.0, 1.0]}", "{translation_m: [1.2, 0.0, 1.9], rotation_xyzw: [1.0, 0.0, 0.0, 0.0]}", "base_link_from_lidar"),
    Seed("lidar-numbers", RIG, "range_m: [1.0, 80.0]", "range_m: [80.0, 1.0]", "range_m"),
    Seed("lidar-numbers", RIG, "intensity_scale: 1}", "intensity_scale: 1, horizontal_fov_deg: [60, -60]}", "intensity_scale: 1, hor"),
    Seed("lidar-numbers", RIG, "    lidar: {rings: 32, range_m: [1.0, 80.0], vertical_fov_deg: [-25.0, 8.0], intensity_scale: 1}\n", "", "  lidar:"),
    Seed("camera-direction", RIG, "rotation_xyzw: [0.0, 0.0, 1.0, 0.0]", "rotation_xyzw: [0.0, 0.70710678, 0.0, 0.70710678]", "base_link_from_cam_rear"),
    Seed("camera-rolled", RIG, "rotation_xyzw: [0.0, 0.0, 1.0, 0.0]", "rotation_xyzw: [-0.5, 0.5, -0.5, 0.5]", "base_link_from_cam_rear"),
    Seed("camera-rolled", RIG, "rotation_xyzw: [0.0, 0.0, 1.0, 0.0]", "rotation_xyzw: [0.0, 1.0, 0.0, 0.0]", "base_link_from_cam_rear"),
    Seed("serial-twice", RIG, "serial: sim-rear", "serial: sim-front", "cam_rear: {kind"),
    Seed("camera-calibration", RIG, ", calibration: cam_rear.yaml", "", "cam_rear: {kind"),
    Seed("calibration-of-another", RIG, "calibration: cam_rear.yaml", "calibration: cam_front.yaml", "cam_rear: {kind"),
    Seed("calibration-of-another", REAR, "serial: sim-rear", "serial: sim-front", "cam_rear: {kind", named=RIG),
    Seed("intrinsics-size", RIG, "serial: sim-rear,", "serial: sim-rear, image: {width_px: 1024, height_px: 512},", "width_px", named=REAR),
    Seed("intrinsics-center", REAR, "center_px: [159.5, 89.5]", "center_px: [955.5, 89.5]", "center_px"),
    Seed("intrinsics-center", REAR, "center_px: [159.5, 89.5]", "center_px: [79.7, 44.7]", "center_px"),
    Seed("intrinsics-focal", REAR, "focal_px: [190.0, 190.0]", "focal_px: [190.0, 19.0]", "focal_px"),
    Seed("coefficients", REAR, "coefficients: [-0.08, 0.01, 0.0, 0.0, 0.0]", "coefficients: [-0.08, 0.01, 0.0]", "coefficients"),
    Seed("distortion-folds", REAR, "coefficients: [-0.08, 0.01, 0.0, 0.0, 0.0]", "coefficients: [-0.9, 0.01, 0.0, 0.0, 0.0]", "coefficients"),
    Seed("exposure", RIG, "calibration: cam_rear.yaml, exposure_ms: 2", "calibration: cam_rear.yaml, exposure_ms: 300", "exposure_ms: 300"),
    Seed("frustum-misses-lidar", RIG, "vertical_fov_deg: [-25.0, 8.0], intensity_scale: 1", "vertical_fov_deg: [-25.0, 8.0], horizontal_fov_deg: [-30, 30]", "scene.masks", named=LAUNCH),
    # models
    Seed("weights", LAUNCH, "filled:dsvt_pillar_120", "filled:dsvt_pilar_120", "dsvt_pilar"),
    Seed("weights", LAUNCH, "filled:dsvt_pillar_120", "trained.safetensors", "trained.safetensors"),
    Seed("card-network", LAUNCH, "filled:dsvt_pillar_120", "filled:ddrnet_compact", "filled:ddrnet_compact"),
    Seed("card-sensor", LAUNCH, "score_min: 0.1", "score_min: 0.1, fill_missing: false", "fill_missing"),
    Seed("card-range", RIG, "range_m: [1.0, 80.0]", "range_m: [1.0, 8.0]", "dsvt_pillar_120", named=LAUNCH),
    Seed("card-height", LAUNCH, "filled:dsvt_pillar_120", "filled:./high.yaml", "./high.yaml"),
    Seed("card-image", LAUNCH, "input_size: [256, 512]", "input_size: [250, 512]", "input_size"),
    Seed("classes", LAUNCH, "filled:ddrnet23_slim_cityscapes", "filled:./plants.yaml", "scene.boxes"),
)  # fmt: skip


@pytest.fixture
def car(tmp_path: Path) -> Path:
    """A graph with the shipped rig that a test may spoil."""
    shutil.copy(HERE / LAUNCH, tmp_path)
    shutil.copytree(ROOT / "calibration" / "simulated_car", tmp_path / "simulated_car")
    return tmp_path


def found(folder: Path) -> list[Fault]:
    return check_launch(folder / LAUNCH)[1].all()


@pytest.mark.parametrize("seed", SEEDS, ids=[f"{seed.code}-{index}" for index, seed in enumerate(SEEDS)])
def test_a_seeded_fault_is_found_where_it_is_and_nothing_else(
    car: Path, seed: Seed, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(car, seed, monkeypatch)
    file = car / seed.file
    text = file.read_text()
    assert seed.old in text
    file.write_text(text.replace(seed.old, seed.new, 1))
    faults = found(car)
    assert {fault.code for fault in faults} == {seed.code}, "\n".join(map(str, faults))
    named = car / (seed.named or seed.file)
    assert {Path(fault.file) for fault in faults} == {named}
    if seed.line:
        text = named.read_text()
        expected = text[: text.index(seed.line)].count("\n") + 1
        assert expected in {fault.line for fault in faults}, "\n".join(map(str, faults))


def prepare(car: Path, seed: Seed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write what a seed needs beside the launch file."""
    if seed.code == "node-cycle":
        (car / "mirror.py").write_text(MIRROR)
    if seed.code == "memory":
        monkeypatch.setattr(graph_checks, "SHARE_OF_MEMORY", 1e-3)
    detector, segmenter = (
        ROOT / f"perception/networks/cards/{name}.yaml" for name in ("dsvt_pillar_120", "ddrnet_compact")
    )
    (car / "high.yaml").write_text(detector.read_text().replace("-2.0]", "1.0]"))
    (car / "plants.yaml").write_text(re.sub(r"identity: \w+", "identity: plant", segmenter.read_text()))
    launch = (car / LAUNCH).read_text()
    assert seed.also[0] in launch
    (car / LAUNCH).write_text(launch.replace(*seed.also, 1) if seed.also[0] else launch)


def test_every_kind_of_fault_has_a_seed() -> None:
    assert set(CODES) == {seed.code for seed in SEEDS}


def test_what_is_spoiled_has_no_fault_before(car: Path) -> None:
    assert found(car) == []


SCORED = """
  scored:
    node: accuracy
    inputs: {masks: segmenter/*/mask, true_masks: "truth/cam_*/mask"}

outputs:"""


def test_an_optional_input_whose_pattern_matches_nothing_is_left_unconnected(car: Path) -> None:
    file = car / LAUNCH
    for truth, connected in (("true", {"masks", "true_masks"}), ("false", {"masks"})):
        text = (HERE / LAUNCH).read_text().replace("\noutputs:", SCORED)
        file.write_text(text.replace("speed_mps: 8,", f"speed_mps: 8, truth: {truth},"))
        assert found(car) == []
        (scored,) = (node for node in load_launch(file).nodes if node.name == "scored")
        assert {edge.input for edge in scored.edges} == connected
