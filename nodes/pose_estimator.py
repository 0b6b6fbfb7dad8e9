"""Estimate the skeleton of a person from a stereo pair of cameras, or from one (EgoPoseFormer).

in:  pair.left, pair.right, pictures of one instant, of cameras of any model; a network for one view takes only left.
     pair.reference, a skeleton with the joint that others are relative to; with `reference: topic` or `truth` only.
out: skeleton, joints in the rig's frame (by default the left camera's), with the stamp of the left picture.
     skeleton_base_link, the same joints in `base_link`; with `reference: fixed` only.

The published network gives joints relative to the pelvis and is told where in each camera's frame the pelvis is, which
at run time nobody knows. `fixed` is a constant point of the headset or the cabin, which our own weights are trained
with; `topic` takes another estimator's; `truth` serves to reproduce published figures, and every output says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar, Literal, Self

import msgspec
import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from perception.engines.precision import EngineName, Precision
from perception.errors import ContractError, ShapeError, UserError, WeightsError, did_you_mean
from perception.geometry.transforms import Transform
from perception.messages import Header, Image, Message, ModelId, Pose3D, derived
from perception.messages.outputs import Skeleton
from perception.networks.address import WeightsAddress
from perception.nodes._contract import UNTRAINED
from perception.nodes._pictures import rgb_of
from perception.runtime.node import Join, Maybe, Node, NodeConfig, NodeSetup, Out

if TYPE_CHECKING:
    from torch import Tensor

    from perception.geometry.cameras import Camera
    from perception.networks.card import Card, SkeletonInfo
    from perception.networks.egoposeformer import EgoPoseFormer
    from perception.networks.part import RunPart
    from perception.ops.image import Letterbox
    from perception.ops.joint_projection import Projection

FROM_TRUTH = "the reference point is the truth: for published figures only"
CONFIDENT_WITHIN_M = 0.05
"""Change between the last two layers at which a joint's confidence falls to 1 / e."""
UNSEEN = 0.5
"""Factor on the confidence of a joint that no camera sees."""


class PoseEstimatorConfig(NodeConfig):
    """Settings of the estimator."""

    weights: WeightsAddress
    """An EgoPoseFormer, of two views or of one."""
    engine: EngineName = "auto"
    """The fastest that agrees (auto), or one by name."""
    precision: Precision = "fp32"
    """What the engine computes in; below fp32 it must still agree."""
    reference: Literal["fixed", "topic", "truth"] = "fixed"
    """Where the point that joints are relative to comes from."""
    reference_m: tuple[float, float, float] | None = None
    """With `fixed`: the point, metres in `reference_frame`."""
    reference_frame: str = "base_link"
    """With `fixed`: the frame of the point, such as `base_link` for a cabin, or a camera's `_optical` for a headset."""
    frame: str = ""
    """The rig's frame, in which the skeleton is given; by default the left camera's optical frame."""
    projection: Literal["rig", "unrealego"] = "rig"
    """rig: the cameras' calibration. unrealego: the published code's own projection, for published figures."""
    letterbox: bool = True
    """Fit pictures of another shape than the network's whole into its input; false stretches them."""

    @model_validator(mode="after")
    def _point_for_fixed(self) -> Self:
        if (self.reference == "fixed") != (self.reference_m is not None):
            raise ValueError("reference_m: [x, y, z] belongs to reference: fixed, which needs it")
        return self


class PoseEstimator(Node):
    """One network on one pair of pictures at a time."""

    Config = PoseEstimatorConfig
    NETWORKS: ClassVar = ("egoposeformer",)

    pair = Join(left=Image, right=Maybe[Image], reference=Maybe[Pose3D], tolerance_ms=10, deadline_ms=100)
    skeleton = Out[Pose3D]()
    skeleton_base_link = Out[Pose3D]()

    @classmethod
    def create(cls, config: PoseEstimatorConfig, setup: NodeSetup) -> Self:
        from torch import set_num_threads

        from perception.engines.choose import EngineSettings, compile_parts
        from perception.engines.engine import run_on
        from perception.networks.egoposeformer import EgoPoseFormer
        from perception.networks.load import load_network

        set_num_threads(setup.threads)
        loaded = load_network(config.weights, EgoPoseFormer, *setup.search_folders[:1])
        if loaded.card.network not in cls.NETWORKS or loaded.card.skeleton is None:
            raise WeightsError(f"'{config.weights}' is of {loaded.card.network}; expected one of EgoPoseFormer")
        _check_inputs(config, setup, loaded.card)
        said: list[str] = []
        settings = EngineSettings(config.engine, config.precision, setup.threads, {"batch": 1})
        engines = compile_parts(loaded.network.parts(), settings, say=said.append)
        names = ", ".join(sorted({engine.name for engine in engines.values()}))
        model = ModelId(id=loaded.model_id, engine=names, trained=not loaded.untrained)
        node = cls(config, loaded.card, loaded.network, run_on(engines), model)
        node.degraded = (*((UNTRAINED,) if loaded.untrained else ()), *node.degraded)
        node.notes = (*loaded.notes, *said)
        return node

    def __init__(
        self, config: PoseEstimatorConfig, card: Card, network: EgoPoseFormer, run: RunPart, model: ModelId
    ) -> None:
        super().__init__(config)
        assert card.skeleton is not None
        self.card, self.network, self.run, self.model = card, network, run, model
        self.body: SkeletonInfo = card.skeleton
        self.degraded = (FROM_TRUTH,) if config.reference == "truth" else ()

    def warm_up(self) -> None:
        import torch

        views = self.card.image.views
        image = torch.zeros(1, views, 3, *self.card.image.size)
        half = torch.full((1, views, self.network.config.num_joints, 2), 0.5)
        with torch.inference_mode():
            self.network.estimate(image, torch.zeros(1, views, 1, 3), lambda *_: (half, half[..., 0] > 0), self.run)

    def on_pair(self, left: Image, right: Image | None, reference: Pose3D | None) -> Iterator[tuple[str, Message]]:
        import torch

        pictures = self._pictures(left, right)
        frames = [picture.header.frame_id for picture in pictures]
        cameras = [self._camera(frame) for frame in frames]
        rgb = [rgb_of(picture) for picture in pictures]
        self._check_views(frames, cameras, rgb)
        optical_from_left = [self.rig.transform(frame, frames[0]) for frame in frames]
        point_m, frame = self._reference(reference)
        in_left_m = self.rig.transform(frames[0], frame).apply(point_m[None])[0]
        references = np.stack([turn.apply(in_left_m[None]) for turn in optical_from_left]) / self.body.unit_m
        image, project = self._inputs(rgb, cameras, [turn.rotation for turn in optical_from_left])
        told = torch.from_numpy(references[None].astype(np.float32))
        with torch.inference_mode():
            poses, _, _ = self.network.estimate(image, told, project, self.run)
            _, seen = project(poses[:, -1], told)
        layers_m = poses[0].numpy().astype(np.float64) * self.body.unit_m  # (L + 1, J, 3)
        if not np.isfinite(layers_m).all():
            raise ShapeError("the network gave joints that are not finite")
        confidence = joint_confidence(layers_m, seen[0].numpy())
        sources = [picture.header for picture in pictures] + ([reference.header] if reference is not None else [])
        header = self._header(sources, rgb)
        joints = layers_m[-1] + in_left_m
        target = self.config.frame or frames[0]
        yield "skeleton", self._message(header, joints, confidence, target, self.rig.transform(target, frames[0]))
        if self.config.reference == "fixed":
            base_link_from_left = self.rig.base_link_from(frames[0])
            yield "skeleton_base_link", self._message(header, joints, confidence, "base_link", base_link_from_left)

    def _pictures(self, left: Image, right: Image | None) -> list[Image]:
        if self.card.image.views == 1:
            return [left]
        if right is None:
            raise ShapeError("the right picture is missing, and this network takes two")
        return [left, right]

    def _camera(self, frame: str) -> Camera:
        sensor = self.rig.sensor_of_frame(frame)
        if sensor is None or sensor.camera is None:
            raise ContractError(f"a picture stands in '{frame}', which is no camera of rig '{self.rig.name}'")
        return sensor.camera

    def _check_views(self, frames: list[str], cameras: list[Camera], rgb: list[NDArray[np.uint8]]) -> None:
        for frame, camera, picture in zip(frames, cameras, rgb, strict=True):
            height, width = picture.shape[:2]
            if abs(width * camera.height_px - height * camera.width_px) > 0.01 * width * camera.height_px:
                raise ShapeError(
                    f"picture of {width} x {height} in '{frame}', whose calibration is for {camera.width_px} x "
                    f"{camera.height_px}: resized is right, cut is not"
                )
        if len(frames) == 2 and self.rig.transform(frames[0], frames[1]).translation_m[0] <= 0:
            raise ContractError(
                f"'{frames[1]}' is not to the right of '{frames[0]}' in rig '{self.rig.name}': exchange the inputs "
                "pair.left and pair.right"
            )

    def _reference(self, message: Pose3D | None) -> tuple[NDArray[np.float64], str]:
        """Return the point, metres, and its frame."""
        if self.config.reference_m is not None:
            return np.array(self.config.reference_m), self.config.reference_frame
        if message is None or not message.skeletons:
            raise ContractError("the reference has no skeleton at this instant")
        name = self.body.reference
        if name not in message.joint_names:
            raise ContractError(
                f"the reference has no joint '{name}', which the network's joints are relative to."
                f"{did_you_mean(name, message.joint_names)}"
            )
        point = message.skeletons[0].joints_m[message.joint_names.index(name)]
        return np.array(point), message.header.frame_id

    def _inputs(
        self, rgb: list[NDArray[np.uint8]], cameras: list[Camera], rotations: list[NDArray[np.float64]]
    ) -> tuple[Tensor, Projection]:
        """Return the pictures as the network takes them, (1, V, 3, H, W), and where joints are in them."""
        import torch

        from perception.ops.image import Normalization
        from perception.ops.joint_projection import camera_projection, letterboxed, unrealego_projection

        contract = self.card.image
        boxes: list[Letterbox] = [self._letterbox(picture) for picture in rgb]
        normalization = Normalization(contract.mean, contract.std)
        image = torch.stack([box.apply(picture, normalization)[0] for box, picture in zip(boxes, rgb, strict=True)])
        if self.config.projection == "unrealego":
            return image[None], unrealego_projection
        project = camera_projection(cameras, rotations, self.body.unit_m)
        return image[None], letterboxed(project, boxes)

    def _letterbox(self, picture: NDArray[np.uint8]) -> Letterbox:
        from perception.ops.image import Letterbox

        height, width = picture.shape[:2]
        size = self.card.image.size
        if self.config.letterbox:
            return Letterbox.of((height, width), size)
        return Letterbox((height, width), size, size, (0, 0))

    def _header(self, sources: list[Header], rgb: list[NDArray[np.uint8]]) -> Header:
        header = derived(*sources)
        size = self.card.image.size
        shapes = {picture.shape[:2] for picture in rgb}
        changed = tuple(
            f"pictures of {shape[1]} x {shape[0]} {'letterboxed' if self.config.letterbox else 'stretched'} into "
            f"{size[1]} x {size[0]}"
            for shape in sorted(shapes) if shape[0] * size[1] != shape[1] * size[0]
        )  # fmt: skip
        reasons = (*header.degraded, *self.degraded, *(() if self.model.trained else (UNTRAINED,)))
        return msgspec.structs.replace(
            header,
            adaptations=tuple(dict.fromkeys((*header.adaptations, *changed))),
            degraded=tuple(dict.fromkeys(reasons)),
            models=(*header.models, self.model),
        )

    def _message(
        self, header: Header, joints_m: NDArray[np.float64], confidence: NDArray[np.float64], frame: str,
        frame_from_left: Transform,
    ) -> Pose3D:  # fmt: skip
        rows = tuple((float(x), float(y), float(z)) for x, y, z in frame_from_left.apply(joints_m))
        return Pose3D(
            header=msgspec.structs.replace(header, frame_id=frame), joint_names=self.body.joints,
            limbs=self.body.limbs, reference=self.config.reference,
            skeletons=(Skeleton(joints_m=rows, confidence=tuple(map(float, confidence))),),
        )  # fmt: skip


def joint_confidence(layers_m: NDArray[np.float64], seen: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return how far each joint can be trusted, 0 to 1; the network itself gives no such number.

    Args:
        layers_m: (L + 1, J, 3) the proposal and the pose of each layer.
        seen: (V, J) where the final joint lies in a view.

    Returns:
        (J,) exp(-change / 5 cm) of the last layer's change, which is small where the refinement has settled; halved
        where no camera sees the joint, since then it is a guess from the rest of the body.
    """
    change = np.linalg.norm(layers_m[-1] - layers_m[-2], axis=1)
    return np.asarray(np.exp(-change / CONFIDENT_WITHIN_M) * np.where(seen.any(axis=0), 1.0, UNSEEN))


def _check_inputs(config: PoseEstimatorConfig, setup: NodeSetup, card: Card) -> None:
    """Refuse inputs that do not fit the network and the reference.

    Raises:
        UserError: a member of the pair is missing, or there is one too many.
    """
    wired = {name.rpartition(".")[2]: topics for name, topics in setup.inputs.items() if topics}
    views = card.image.views
    if ("right" in wired) != (views == 2):
        raise UserError(
            f"node '{setup.name}': '{config.weights}' takes {views} view{'s' * (views > 1)}; "
            + ("expected inputs: {pair.right: TOPIC}" if views == 2 else "remove the input pair.right")
        )
    if ("reference" in wired) != (config.reference != "fixed"):
        expected = "no input pair.reference" if config.reference == "fixed" else "inputs: {pair.reference: TOPIC}"
        raise UserError(f"node '{setup.name}': reference: {config.reference}; expected {expected}")
    of_truth = any(topic.startswith("truth/") for topic in wired.get("reference", ()))
    if of_truth and config.reference == "topic":
        raise UserError(
            f"node '{setup.name}': its reference is the truth topic '{wired['reference'][0]}'; "
            "expected reference: truth, so that every output says so"
        )


__all__ = ["PoseEstimator", "PoseEstimatorConfig", "joint_confidence"]
