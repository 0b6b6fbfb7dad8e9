"""The pose node: frames, references and projections, with a network that gives a known pose; and the real pair."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
import torch
import yaml
from numpy.typing import NDArray
from PIL import Image as Pillow
from pydantic import ValidationError

from perception.cli.main import main
from perception.errors import ContractError, ShapeError, UserError
from perception.geometry.rig import Rig, rig_from_files
from perception.logs.mcap_writer import McapWriter
from perception.logs.open_log import open_log
from perception.messages import Header, Image, Message, ModelId, Pose3D
from perception.messages.codec import encode
from perception.messages.outputs import Skeleton
from perception.networks.card import find_card
from perception.nodes.pose_estimator import PoseEstimator, PoseEstimatorConfig, joint_confidence
from perception.runtime.node import NodeSetup

MODELS: dict[str, dict[str, Any]] = {
    "plumb_bob": {"focal_px": [150.0, 150.0], "coefficients": [-0.1, 0.01, 0.001, 0.0, 0.0]},
    "rational_polynomial": {"focal_px": [150.0, 150.0], "coefficients": [0.1, 0.0, 0.0, 0.0, 0.0, 0.15, 0.0, 0.0]},
    "kannala_brandt": {"focal_px": [90.0, 90.0], "coefficients": [0.01, 0.0, 0.0, 0.0]},
    "double_sphere": {"focal_px": [100.0, 100.0], "coefficients": [-0.2, 0.59]},
    "ocam": {"focal_px": [1.0, 1.0], "coefficients": [1.0, 0.0, 0.0, 0, 3, 130.0, 82.0, 0.0]},
}
"""Fisheye and pinhole cameras of 256 x 256; the ocam one is a little more than 130 px at 90 degrees."""


def rig(model: str = "kannala_brandt", size: tuple[int, int] = (256, 256), yaw_rad: float = 0.0) -> Rig:
    """Two cameras 20 cm apart on a headset 1.5 m above base_link, looking down; the right one turned by `yaw_rad`."""
    half = yaw_rad / 2
    document = {
        "name": "headset",
        "sensors": {
            f"cam_{side}": {"kind": "camera", "rate_hz": 30, "calibration": f"cam_{side}.yaml"}
            for side in ("left", "right")
        },
        "transforms": {  # looking down: the camera's x axis is -z of base_link, its y axis stays left
            "base_link_from_head": {"translation_m": [0.0, 0.0, 1.5], "rotation_xyzw": [0, 0.5**0.5, 0, 0.5**0.5]},
            "head_from_cam_left": {"translation_m": [0.0, 0.1, 0.0], "rotation_xyzw": [0, 0, 0, 1]},
            "head_from_cam_right": {
                "translation_m": [0.0, -0.1, 0.0],
                "rotation_xyzw": [0, 0, float(np.sin(half)), float(np.cos(half))],
            },
        },
    }
    camera = {"model": model, "width_px": size[0], "height_px": size[1],
              "center_px": [(size[0] - 1) / 2, (size[1] - 1) / 2], **MODELS[model]}  # fmt: skip
    files = {"rig.yaml": document, "cam_left.yaml": camera, "cam_right.yaml": camera}
    return rig_from_files({name: yaml.safe_dump(value).encode() for name, value in files.items()}, "headset")


class Known:
    """A network that remembers what it is given, and moves joint i by (i, 0, 2 i) centimetres from the reference."""

    config = SimpleNamespace(num_joints=16)

    def __init__(self, change_cm: float = 0.0) -> None:
        self.change_cm = change_cm

    def estimate(self, image: torch.Tensor, references: torch.Tensor, project: Any, run: Any) -> Any:
        self.image, self.references = image, references
        index = torch.arange(16.0)
        pose = torch.stack((index, 0 * index, 2 * index), dim=1)[None, None]
        self.anchors, self.in_view = project(pose[:, 0], references)
        return torch.cat((pose, pose + self.change_cm, pose), dim=1), self.anchors, self.in_view


def node_of(network: Known, on: Rig, card: str = "egoposeformer_compact", **settings: Any) -> PoseEstimator:
    settings = (
        {"reference_m": (0.3, 0.0, 0.9), **settings} if settings.get("reference", "fixed") == "fixed" else settings
    )
    config = PoseEstimatorConfig(weights=f"filled:{card}", **settings)
    node = PoseEstimator(config, find_card(card), network, lambda *_: {}, ModelId(id="k", engine="none"))  # type: ignore[arg-type]
    node.rig = on
    return node


def picture(side: str, size: tuple[int, int] = (256, 256)) -> Image:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    header = Header(frame_id=f"cam_{side}_optical", t_sensor_ns=5)
    return Image(header=header, encoding="rgb8", height_px=size[1], width_px=size[0], data=pixels)


def joints(message: Any) -> NDArray[np.float64]:
    assert isinstance(message, Pose3D)
    return np.array(message.skeletons[0].joints_m)


def test_a_fixed_point_of_the_cabin_gives_joints_in_the_rig_and_in_base_link() -> None:
    network = Known()
    out = dict(node_of(network, rig()).on_pair(picture("left"), picture("right"), None))
    # The left camera is at (0, 0.1, 1.5) of base_link and looks down: its optical z is -z, its x (right) is -y, its
    # y (down in the picture) is -x. The reference (0.3, 0, 0.9) is 10 cm right, 30 cm up the picture, 60 cm ahead.
    np.testing.assert_allclose(network.references[0, :, 0], [[10.0, -30.0, 60.0], [-10.0, -30.0, 60.0]], atol=1e-4)
    assert out["skeleton"].header.frame_id == "cam_left_optical"
    np.testing.assert_allclose(joints(out["skeleton"])[0], [0.1, -0.3, 0.6], atol=1e-6)
    # joint 5 is 5 cm along the cameras' x (right, -y) and 10 cm along z (down)
    assert out["skeleton_base_link"].header.frame_id == "base_link"
    np.testing.assert_allclose(joints(out["skeleton_base_link"])[5], [0.3, -0.05, 0.8], atol=1e-6)


def test_the_skeleton_may_stand_in_any_frame_of_the_rig() -> None:
    out = dict(node_of(Known(), rig(), frame="head").on_pair(picture("left"), picture("right"), None))
    assert out["skeleton"].header.frame_id == "head"
    # head: x down, y left, z forward of the body; the reference is 0.6 m below the head and 0.3 m ahead
    np.testing.assert_allclose(joints(out["skeleton"])[0], [0.6, 0.0, 0.3], atol=1e-6)


@pytest.mark.parametrize("model", list(MODELS))
def test_joints_are_looked_for_where_any_camera_model_shows_them(model: str) -> None:
    network, on = Known(), rig(model, yaw_rad=0.2)
    list(node_of(network, on).on_pair(picture("left"), picture("right"), None))
    base_link = np.array([[0.3, -0.01 * i, 0.9 - 0.02 * i] for i in range(16)])
    for view, side in enumerate(("left", "right")):
        points = on.base_link_from(f"cam_{side}_optical").inverse().apply(base_link)
        pixels, seen = on.camera(f"cam_{side}").project(points)
        assert seen.any()
        np.testing.assert_array_equal(network.in_view[0, view], seen)
        np.testing.assert_allclose(network.anchors[0, view][seen], (pixels[seen] + 0.5) / 256, atol=1e-5)


def test_a_wide_picture_is_letterboxed_and_joints_follow_it() -> None:
    network, on = Known(), rig("plumb_bob", (320, 160))
    out = dict(node_of(network, on).on_pair(picture("left", (320, 160)), picture("right", (320, 160)), None))
    assert out["skeleton"].header.adaptations == ("pictures of 320 x 160 letterboxed into 192 x 192",)
    base_link = np.array([[0.3, 0.0, 0.9]])
    pixel, seen = on.camera("cam_left").project(on.base_link_from("cam_left_optical").inverse().apply(base_link))
    if seen[0]:
        expected = (pixel[0] + 0.5) * 192 / 320 + (0, 48)
        np.testing.assert_allclose(network.anchors[0, 0, 0] * 192, expected, atol=1e-3)
    assert (network.image[0, 0, :, :48] == 0).all()
    stretched = Known()
    list(
        node_of(stretched, on, letterbox=False).on_pair(picture("left", (320, 160)), picture("right", (320, 160)), None)
    )
    assert (stretched.image[0, 0, :, 0] != 0).any()


@pytest.mark.parametrize("reference", ["topic", "truth"])
def test_another_estimator_gives_the_reference_and_truth_is_said_in_every_output(
    reference: Literal["topic", "truth"],
) -> None:
    network = Known()
    node = node_of(network, rig(), reference=reference)
    told = Pose3D(
        header=Header(frame_id="base_link", t_sensor_ns=5), joint_names=("head", "pelvis"), limbs=(),
        skeletons=(Skeleton(joints_m=((9.0, 9.0, 9.0), (0.3, 0.0, 0.9)), confidence=(1.0, 1.0)),),
    )  # fmt: skip
    out = dict(node.on_pair(picture("left"), picture("right"), told))
    assert set(out) == {"skeleton"}
    np.testing.assert_allclose(network.references[0, 0, 0], [10.0, -30.0, 60.0], atol=1e-4)
    said = "the reference point is the truth: for published figures only"
    assert (said in out["skeleton"].header.degraded) == (reference == "truth")
    assert out["skeleton"].reference == reference  # type: ignore[attr-defined]
    with pytest.raises(ContractError, match="no skeleton"):
        list(node.on_pair(picture("left"), picture("right"), None))
    nameless = Pose3D(header=told.header, joint_names=("head", "hip"), limbs=(), skeletons=told.skeletons)
    with pytest.raises(ContractError, match="no joint 'pelvis'"):
        list(node.on_pair(picture("left"), picture("right"), nameless))


def test_one_camera_is_enough_for_a_network_of_one_view() -> None:
    network = Known()
    out = dict(node_of(network, rig(), "egoposeformer_mono").on_pair(picture("left"), None, None))
    assert network.image.shape == (1, 1, 3, 256, 256)
    assert joints(out["skeleton"]).shape == (16, 3)
    pair = node_of(Known(), rig())
    with pytest.raises(ShapeError, match="right picture is missing"):
        list(pair.on_pair(picture("left"), None, None))


def test_names_limbs_and_confidence_come_with_the_joints() -> None:
    message = dict(node_of(Known(), rig()).on_pair(picture("left"), picture("right"), None))["skeleton"]
    assert isinstance(message, Pose3D)
    assert message.joint_names[:2] == ("head", "neck_01")
    assert message.limbs[0] == (0, 1)
    assert len(message.skeletons[0].confidence) == 16
    assert message.header.models[-1].id == "k"


def test_confidence_falls_with_the_last_change_and_where_no_camera_sees() -> None:
    layers = np.zeros((3, 3, 3))
    layers[1, 1, 0] = 0.05
    seen = np.array([[True, True, False], [False, True, False]])
    np.testing.assert_allclose(joint_confidence(layers, seen), [1.0, np.exp(-1.0), 0.5])


def test_weights_of_a_constant_reference_refuse_another() -> None:
    def run(point_m: tuple[float, float, float]) -> dict[str, Message]:
        node = node_of(Known(), rig(), "egoposeformer_cabin", reference_m=point_m, reference_frame="cam_left_optical")
        return dict(node.on_pair(picture("left"), picture("right"), None))

    assert set(run((0.06, 0.45, 0.55))) == {"skeleton", "skeleton_base_link"}  # what the card states
    with pytest.raises(ContractError, match=r"\[0.06, 0.45, 0.55\], reference_frame: cam_left_optical"):
        run((0.06, 0.45, 0.50))


def test_pictures_that_do_not_fit_the_rig_are_named() -> None:
    node = node_of(Known(), rig())
    with pytest.raises(ContractError, match="exchange the inputs"):
        list(node.on_pair(picture("right"), picture("left"), None))
    with pytest.raises(ShapeError, match="resized is right, cut is not"):
        list(node.on_pair(picture("left", (256, 200)), picture("right"), None))
    list(node.on_pair(picture("left", (128, 128)), picture("right", (128, 128)), None))
    with pytest.raises(ContractError, match="no camera of rig"):
        list(node.on_pair(picture("middle"), picture("right"), None))


def test_settings_and_inputs_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValidationError, match="belongs to reference: fixed"):
        PoseEstimatorConfig(weights="filled:egoposeformer_compact")
    with pytest.raises(ValidationError, match="belongs to reference: fixed"):
        PoseEstimatorConfig(weights="filled:egoposeformer_compact", reference="topic", reference_m=(0, 0, 0))

    def made(inputs: Mapping[str, tuple[str, ...]], card: str = "egoposeformer_compact", **settings: Any) -> None:
        settings = settings or {"reference_m": (0.0, 0.0, 0.5)}
        config = PoseEstimatorConfig(weights=f"filled:{card}", engine="torch", **settings)
        PoseEstimator.create(config, NodeSetup("pose", None, inputs, (Path(),)))

    left, both = {"pair.left": ("a/image",)}, {"pair.left": ("a/image",), "pair.right": ("b/image",)}
    with pytest.raises(UserError, match=r"expected inputs: \{pair.right: TOPIC\}"):
        made(left)
    with pytest.raises(UserError, match=r"remove the input pair.right"):
        made(both, "egoposeformer_mono")
    with pytest.raises(UserError, match=r"reference: topic; expected inputs: \{pair.reference: TOPIC\}"):
        made(both, reference="topic")
    with pytest.raises(UserError, match="expected reference: truth"):
        made(both | {"pair.reference": ("truth/pose",)}, reference="topic")


def test_the_real_pair_of_unrealego_runs_through_a_launch_file(data_folder: Path, tmp_path: Path) -> None:
    folder = data_folder / "unrealego"
    on = rig("kannala_brandt")
    log, out = tmp_path / "pair.mcap", tmp_path / "out.mcap"
    with McapWriter(log, {f"calibration/{name}": data for name, data in on.files.items()}) as writer:
        for side in ("left", "right"):
            with Pillow.open(folder / f"input_rgb_{side}.png") as file:
                pixels = np.array(file.convert("RGB"))
            header = Header(frame_id=f"cam_{side}_optical", t_sensor_ns=1_000, schema="perception.image/1")
            message = Image(header=header, encoding="rgb8", height_px=256, width_px=256, data=pixels)
            writer.write(f"cam_{side}/image", encode(message).to_bytes(), 1_000)
    launch = tmp_path / "headset.yaml"
    launch.write_text(
        f"name: pose_test\nrig: from_log\nendpoint: ipc://{tmp_path}/pose.ipc\nnodes:\n  pose:\n"
        "    node: pose_estimator\n"
        "    settings: {weights: 'filled:egoposeformer_compact', reference_m: [0, 0, 0.5], engine: torch,\n"
        "               reference_frame: cam_left_optical}\n"
        "    inputs: {pair.left: cam_left/image, pair.right: cam_right/image}\n"
        "outputs:\n  skeleton: {topic: pose/skeleton, required: true}\n"
        "  skeleton_base_link: {topic: pose/skeleton_base_link, required: true}\n"
    )
    with pytest.raises(SystemExit) as ended:
        main(["launch", str(launch), "--replay", str(log), "--mode", "lockstep", "--record", str(out)])
    assert ended.value.code == 0
    found = {topic: message for topic, message in open_log(out).messages() if isinstance(message, Pose3D)}
    assert set(found) == {"pose/skeleton", "pose/skeleton_base_link"}
    moved = on.base_link_from("cam_left_optical").apply(joints(found["pose/skeleton"]))
    np.testing.assert_allclose(joints(found["pose/skeleton_base_link"]), moved, atol=1e-9)
    assert "untrained weights: the output means nothing" in found["pose/skeleton"].header.degraded
