"""Detect objects in a LiDAR sweep and the pictures of surround cameras, together (DeepInteraction++).

in:  scene.sweep, the reference; scene.images, of any number of cameras of any size. A camera that is lost or late is
     left out, and the header says so.
     pictures, the images once more, only for `without_lidar: degrade`: while no sweep comes, every round of pictures
     gives boxes of the cameras alone, and the header says so. By default there is no output without a sweep.
     ego, which moves points that have times of their own, past sweeps and the cameras' poses to the instant of the
     sweep; without it the last sweep stands alone, as measured, and the header says so.
out: detections, boxes in `base_link` with the stamp of the sweep.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

import msgspec
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from perception.engines.precision import EngineName, Precision
from perception.errors import ContractError, ShapeError, WeightsError
from perception.geometry.transforms import Transform
from perception.messages import Detections3D, Header, Image, ModelId, Odometry, PointCloud, derived, host
from perception.networks.address import WeightsAddress
from perception.nodes._contract import UNTRAINED
from perception.nodes._moving_points import measured_by, poses
from perception.nodes._pictures import rgb_of
from perception.nodes.lidar_detector import scaled_intensity
from perception.ops.moving_points import compile_all
from perception.runtime.node import Join, Lookup, Many, Node, NodeConfig, NodeSetup, On, Out

if TYPE_CHECKING:
    from torch import Tensor

    from perception.networks.card import Card
    from perception.networks.deepinteraction import DeepInteraction
    from perception.networks.part import RunPart
    from perception.ops.pinhole import PinholeView
    from perception.ops.sparse_backend import SparseBackend

NO_EGO_MOTION = "no ego motion: one sweep alone, and cameras as if at its instant"
MAX_POINTS = 1_000_000


class FusionDetectorConfig(NodeConfig):
    """Settings of the detector."""

    weights: WeightsAddress
    """A DeepInteraction++."""
    engine: EngineName = "auto"
    """The fastest that agrees (auto), or one by name."""
    precision: Precision = "fp32"
    """What the engine computes in; below fp32 it must still agree."""
    score_min: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Boxes below this score are left out."""
    sweeps: Annotated[int, Field(ge=1, le=20)] | None = None
    """Sweeps taken together, the last one included; by default the card's."""
    fill_missing: bool = True
    """Use the card's fill value for what the sensor does not measure; every output says so."""
    any_height: bool = False
    """Accept a LiDAR that is mounted at another height than the card's."""
    without_lidar: Literal["refuse", "degrade"] = "refuse"
    """While the LiDAR is lost: no output, or boxes of the cameras alone, marked; needs the input `pictures`."""
    lidar_lost_after_ms: Annotated[float, Field(gt=0)] = 500.0
    """Sensor time without a sweep after which the LiDAR is lost."""
    sparse_convolution: Literal["own", "spconv"] = "own"
    """own, or spconv where it is installed."""


@dataclass(frozen=True)
class _Sweep:
    """A sweep that is kept: its own arrays, in `base_link` at its own instant."""

    t_ns: int
    xyz: NDArray[np.float64]
    intensity: NDArray[np.float32]


class FusionDetector(Node):
    """One network on one set of a sweep and pictures at a time."""

    Config = FusionDetectorConfig
    NETWORKS: ClassVar = ("deepinteraction",)

    scene = Join(sweep=PointCloud, images=Many[Image], tolerance_ms=60, deadline_ms=100)
    pictures = On[Image](keep="all", bound=20, optional=True)
    ego = Lookup[Odometry](deadline_ms=100)
    detections = Out[Detections3D]()

    @classmethod
    def create(cls, config: FusionDetectorConfig, setup: NodeSetup) -> Self:
        from torch import set_num_threads

        from perception.engines.choose import EngineSettings
        from perception.engines.engine import run_on
        from perception.engines.fusion_engines import compile_fusion
        from perception.networks.deepinteraction import DeepInteraction
        from perception.networks.load import load_network
        from perception.ops.sparse_backend import sparse_backend

        if config.without_lidar == "degrade" and not setup.inputs.get("pictures"):
            raise ContractError(
                "without_lidar: degrade needs the input 'pictures': the topics of scene.images once more"
            )
        set_num_threads(setup.threads)
        loaded = load_network(config.weights, DeepInteraction, *setup.search_folders[:1])
        if loaded.card.network not in cls.NETWORKS:
            raise WeightsError(
                f"'{config.weights}' is of {loaded.card.network}; this node drives {', '.join(cls.NETWORKS)}"
            )
        topics = setup.inputs.get("images", ())
        said: list[str] = []
        settings = EngineSettings(config.engine, config.precision, setup.threads)
        engines = compile_fusion(loaded.network, max(1, len(topics)), settings, say=said.append)
        on_gpu = any("cuda" in engine.name for engine in engines.values())
        names = ", ".join(sorted({engine.name for engine in engines.values()}))
        model = ModelId(id=loaded.model_id, engine=names, trained=not loaded.untrained)
        cameras = tuple(topic.partition("/")[0] for topic in topics)
        sparse = None if config.sparse_convolution == "own" else sparse_backend(config.sparse_convolution)
        node = cls(config, loaded.card, loaded.network, run_on(engines), model, cameras=cameras, sparse=sparse)
        node.device = "cuda" if on_gpu else "cpu"
        node.degraded = (UNTRAINED,) if loaded.untrained else ()
        node.notes = (*loaded.notes, *said)
        return node

    def __init__(
        self,
        config: FusionDetectorConfig,
        card: Card,
        network: DeepInteraction,
        run: RunPart,
        model: ModelId,
        *,
        cameras: tuple[str, ...],
        sparse: SparseBackend | None = None,
    ) -> None:
        super().__init__(config)
        self.card, self.network, self.run, self.model, self.cameras = card, network, run, model, cameras
        self.device = "cpu"
        self.sparse, self.sweeps = sparse, config.sweeps or card.points.sweeps
        self._past: deque[_Sweep] = deque(maxlen=self.sweeps - 1)
        self._pinholes: dict[str, PinholeView] = {}
        self._last_sweep_ns: int | None = None
        self._round: dict[str, Image] = {}
        """Pictures since the last output, by camera, while the LiDAR is lost."""

    def warm_up(self) -> None:
        import torch

        compile_all()
        wanted = self.card.points
        low, high = np.array(wanted.minimum_m), np.array(wanted.maximum_m)
        xyz = low + np.random.default_rng(0).random((1000, 3)) * (high - low)
        points = np.concatenate([xyz, np.zeros((1000, 2))], axis=1, dtype=np.float32)
        none = torch.zeros(1, 0, 4, 4)
        self._detect(torch.zeros(1, 0, 3, *self.network.config.image_size), points, none, none)

    def reset(self, reason: str) -> None:
        self._past.clear()
        self._round.clear()
        self._last_sweep_ns = None

    def on_scene(self, sweep: PointCloud, images: Sequence[Image]) -> Detections3D:
        self._last_sweep_ns = sweep.header.t_sensor_ns
        self._round.clear()
        now = self._odom_from_base_link(sweep.header.t_sensor_ns)
        base_link_from_card = self._base_link_from_card(sweep.header.frame_id)
        current, adaptations = self._in_base_link(sweep)
        points, count = self._gathered(current, now, base_link_from_card.inverse())
        if count < self.sweeps:
            adaptations = (*adaptations, f"{count} of {self.sweeps} sweeps")
        if now is not None and self._past.maxlen:
            self._past.appendleft(current)
        return self._fused(sweep.header, points, images, now, base_link_from_card, adaptations)

    def on_pictures(self, image: Image) -> Detections3D | None:
        t_ns, camera = image.header.t_sensor_ns, image.header.frame_id
        if self._last_sweep_ns is None:
            self._last_sweep_ns = t_ns
        lost = t_ns - self._last_sweep_ns > self.config.lidar_lost_after_ms * 1e6
        if self.config.without_lidar == "refuse" or not lost:
            self._round.clear()
            return None
        whole = list(self._round.values())
        if camera not in self._round:  # else another round has begun: a camera is missing in the last
            whole = [*whole, image]
            self._round[camera] = image.keep()
            if len(self._round) < len(self.cameras):
                return None
            self._round.clear()
        else:
            self._round = {camera: image.keep()}
        return self._without_lidar(max((image.header for image in whole), key=lambda header: header.t_sensor_ns), whole)

    def _without_lidar(self, header: Header, images: Sequence[Image]) -> Detections3D:
        lidar = next((sensor for sensor in self.rig.sensors.values() if sensor.lidar is not None), None)
        if lidar is None:
            raise ContractError(f"rig '{self.rig.name}' has no LiDAR: where the card's frame lies is not known")
        self._past.clear()
        header = msgspec.structs.replace(
            header, sensors=header.sensors | {lidar.name: "lost"}, degraded=(*header.degraded, f"without {lidar.name}")
        )
        none = np.zeros((0, 3 + len(self.card.points.features)), np.float32)
        now = self._odom_from_base_link(header.t_sensor_ns)
        return self._fused(header, none, images, now, self._base_link_from_card(lidar.frame), ())

    def _fused(
        self, reference: Header, points: NDArray[np.float32], images: Sequence[Image], now: Transform | None,
        base_link_from_card: Transform, adaptations: tuple[str, ...],
    ) -> Detections3D:  # fmt: skip
        import torch

        used, left_out = self._usable(images)
        pictures, projections, poses = [], [], []
        for image, rgb in used:
            frame = image.header.frame_id
            view = self._pinhole(frame)
            moved = self._moved(now, self._odom_from_base_link(image.header.t_sensor_ns))
            optical_from_card = self.rig.base_link_from(frame).inverse() @ moved @ base_link_from_card
            pictures.append(view.apply(self._normalised(rgb)))
            projections.append(view.image_from_optical @ optical_from_card.matrix)
            poses.append(optical_from_card.inverse().matrix)
        stacked = torch.cat(pictures)[None] if pictures else torch.zeros(1, 0, 3, *self.network.config.image_size)
        found = self._detect(stacked, points, _matrices(projections), _matrices(poses))
        header = self._header(reference, [image for image, _ in used], left_out, now is not None, adaptations)
        return self._message(found, header, base_link_from_card)

    def _gathered(
        self, current: _Sweep, now: Transform | None, card_from_base: Transform
    ) -> tuple[NDArray[np.float32], int]:
        """Return the sweep and those kept of before, in the card's frame: x y z, intensity, time lag; and how many."""
        sweeps = [(current, Transform.identity())]
        for past in self._past if now is not None else ():
            then = self._odom_from_base_link(past.t_ns)
            if then is not None and now is not None:
                sweeps.append((past, now.inverse() @ then))
        rows = []
        for sweep, now_from_then in sweeps:
            lag = np.full(len(sweep.xyz), (current.t_ns - sweep.t_ns) * 1e-9)
            xyz = (card_from_base @ now_from_then).apply(sweep.xyz)
            rows.append(np.column_stack([xyz, sweep.intensity, lag]).astype(np.float32))
        return np.concatenate(rows), len(rows)

    def _in_base_link(self, sweep: PointCloud) -> tuple[_Sweep, tuple[str, ...]]:
        xyz = host(sweep.xyz_m)
        if len(xyz) > MAX_POINTS:
            raise ShapeError(f"the sweep has {len(xyz)} points; at most {MAX_POINTS} are taken")
        finite = np.isfinite(xyz).all(axis=1)
        if not finite.any():
            raise ShapeError(f"none of the {len(xyz)} points is finite")
        moved = self._deskewed(sweep, finite)
        feature = next(feature for feature in self.card.points.features if feature.name == "intensity")
        if sweep.intensity is None:
            filled = np.full(len(moved), feature.fill, np.float32)
            note = f"intensity is not measured: {feature.fill:g} in its place"
            return _Sweep(sweep.header.t_sensor_ns, moved, filled), (note,)
        intensity, note = scaled_intensity(host(sweep.intensity)[finite], sweep.intensity_scale, feature.scale)
        return _Sweep(sweep.header.t_sensor_ns, moved, intensity.astype(np.float32)), (note,) if note else ()

    def _deskewed(self, sweep: PointCloud, finite: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Return points (N, 3) in `base_link` at the stamp; as measured where ego motion is not known."""
        now_ns, base_link_from_lidar = sweep.header.t_sensor_ns, self.rig.base_link_from(sweep.header.frame_id)
        ego = self.ego.at(now_ns)
        if ego is None:
            return base_link_from_lidar.apply(host(sweep.xyz_m)[finite].astype(np.float64))
        return measured_by(sweep, finite, base_link_from_lidar, poses(ego, self.ego.at)).base_link_m(now_ns)

    def _base_link_from_card(self, frame: str) -> Transform:
        """Return where the frame of the card's training data is on this car: its axes, and its origin."""
        wanted = self.card.points
        at_sensor = wanted.origin == "sensor"
        place = self.rig.base_link_from(frame).translation_m if at_sensor else (0.0, 0.0, wanted.origin_height_m)
        quarter = np.pi / 2 if wanted.axes == "x right, y forward, z up" else 0.0
        return Transform.from_yaw(place, -quarter)

    def _usable(self, images: Sequence[Image]) -> tuple[list[tuple[Image, NDArray[np.uint8]]], list[str]]:
        """Return the pictures that can be read, and why others are left out."""
        usable, reasons = [], []
        for image in images:
            name = image.header.frame_id.removesuffix("_optical")
            try:
                usable.append((image, rgb_of(image)))
            except ShapeError as error:
                reasons.append(f"{name} left out: {error}")
        return usable, reasons

    def _pinhole(self, frame: str) -> PinholeView:
        from perception.ops.pinhole import pinhole_view

        if frame not in self._pinholes:
            sensor = self.rig.sensor_of_frame(frame)
            if sensor is None or sensor.camera is None:
                raise ContractError(f"a picture stands in '{frame}', which is no camera of rig '{self.rig.name}'")
            self._pinholes[frame] = pinhole_view(sensor.camera, *self.network.config.image_size)
        return self._pinholes[frame]

    def _normalised(self, rgb: NDArray[np.uint8]) -> Tensor:
        from perception.ops.image import Normalization, normalised

        contract = self.card.image
        return normalised(rgb[None], Normalization(contract.mean, contract.std))

    def _odom_from_base_link(self, t_ns: int) -> Transform | None:
        ego = self.ego.at(t_ns)
        return None if ego is None else Transform.from_quaternion(ego.translation_m, ego.rotation_xyzw)

    @staticmethod
    def _moved(now: Transform | None, then: Transform | None) -> Transform:
        """Return then_from_now of `base_link`, the identity where the motion is not known."""
        return Transform.identity() if now is None or then is None else then.inverse() @ now

    def _detect(self, images: Tensor, points: NDArray[np.float32], projections: Tensor, poses: Tensor) -> Any:
        import torch

        views, given = max(1, len(self.cameras)), (x.to(self.device) for x in (images, projections, poses))
        images, projections, poses = given
        with torch.inference_mode():
            return self.network.detect(images, [points], projections, poses, self.run, views, self.sparse)[0]

    def _header(
        self, reference: Header, used: list[Image], reasons: list[str], moved: bool, adaptations: tuple[str, ...]
    ) -> Header:
        header = derived(reference, *(image.header for image in used), frame_id="base_link")
        present = {image.header.frame_id.removesuffix("_optical") for image in used}
        missing = [camera for camera in self.cameras if camera not in present]
        reasons = [*reasons, *(f"without {camera}" for camera in missing)]
        reasons += [] if moved else [NO_EGO_MOTION]
        reasons += [] if self.model.trained else [UNTRAINED]
        return msgspec.structs.replace(
            header,
            sensors=header.sensors | {camera: header.sensors.get(camera, "lost") for camera in missing},
            degraded=tuple(dict.fromkeys((*header.degraded, *reasons))),
            adaptations=tuple(dict.fromkeys((*header.adaptations, *adaptations))),
            models=(*header.models, self.model),
        )

    def _message(self, found: Any, header: Header, base_link_from_card: Transform) -> Detections3D:
        found = found.cpu()
        kept = (found.scores >= self.config.score_min).numpy()
        boxes = found.upright_boxes().transformed(base_link_from_card)
        velocity = None
        if self.sweeps > 1:  # how fast something is cannot be seen in one sweep: what the network says then is a guess
            flat = np.zeros((len(kept), 3))
            flat[:, :2] = found.boxes[:, 7:9].numpy()
            velocity = base_link_from_card.rotate(flat)[kept, :2].astype(np.float32)
        return Detections3D(
            header=header, classes=self.card.class_names, identities=tuple(info.identity for info in self.card.classes),
            center_m=boxes.center_m[kept].astype(np.float32), size_lwh_m=boxes.size_lwh_m[kept].astype(np.float32),
            yaw_rad=boxes.yaw_rad[kept].astype(np.float32), score=found.scores.numpy()[kept].astype(np.float32),
            label=found.labels.numpy()[kept].astype(np.uint16), velocity_mps=velocity,
        )  # fmt: skip


def _matrices(rows: Sequence[NDArray[np.float64]]) -> Tensor:
    import torch

    return torch.from_numpy(np.array(rows, np.float32).reshape(1, len(rows), 4, 4))
