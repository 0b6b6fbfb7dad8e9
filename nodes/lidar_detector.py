"""Detect objects in LiDAR sweeps.

in:  sweep, a cloud in the sensor's frame.
out: detections, boxes in `base_link` with the stamp of the sweep.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

import msgspec
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from perception.engines.precision import EngineName, Precision
from perception.errors import ShapeError, WeightsError
from perception.geometry.boxes import Boxes
from perception.geometry.transforms import Transform
from perception.messages import Detections3D, ModelId, PointCloud, host
from perception.networks.address import WeightsAddress
from perception.nodes._contract import UNTRAINED
from perception.runtime.node import Node, NodeConfig, NodeSetup, On, Out

if TYPE_CHECKING:
    from perception.networks.card import Card, PointsInput
    from perception.networks.part import RunPart

MAX_POINTS = 1_000_000


class LidarDetectorConfig(NodeConfig):
    """Settings of the detector."""

    weights: WeightsAddress
    """A DSVT or FlatFormer."""
    engine: EngineName = "auto"
    """The fastest that agrees (auto), or one by name."""
    precision: Precision = "fp32"
    """What the engine computes in; below fp32 it must still agree."""
    score_min: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Boxes below this score are left out."""
    fill_missing: bool = True
    """Use the card's fill value for what the sensor does not measure; every output says so."""
    any_height: bool = False
    """Accept a sensor that is mounted at another height than the card's."""


class LidarDetector(Node):
    """One network on one sweep at a time."""

    Config = LidarDetectorConfig
    NETWORKS: ClassVar = ("dsvt", "flatformer")

    sweep = On[PointCloud](keep="latest")
    detections = Out[Detections3D]()

    @classmethod
    def create(cls, config: LidarDetectorConfig, setup: NodeSetup) -> Self:
        from torch import nn, set_num_threads

        from perception.engines.choose import EngineSettings, compile_parts
        from perception.engines.engine import run_on
        from perception.networks.load import load_network

        set_num_threads(setup.threads)
        loaded = load_network(config.weights, nn.Module, *setup.search_folders[:1])
        if loaded.card.network not in cls.NETWORKS:
            raise WeightsError(
                f"'{config.weights}' is of {loaded.card.network}; this node drives {', '.join(cls.NETWORKS)}"
            )
        network: Any = loaded.network
        said: list[str] = []
        settings = EngineSettings(config.engine, config.precision, setup.threads)
        engines = compile_parts(network.parts(), settings, say=said.append)
        names = ", ".join(sorted({engine.name for engine in engines.values()}))
        model = ModelId(id=loaded.model_id, engine=names, trained=not loaded.untrained)
        node = cls(config, loaded.card, network, run_on(engines), model)
        node.device = "cuda" if any("cuda" in engine.name for engine in engines.values()) else "cpu"
        node.degraded = (UNTRAINED,) if loaded.untrained else ()
        node.notes = (*loaded.notes, *said)
        return node

    def __init__(self, config: LidarDetectorConfig, card: Card, network: Any, run: RunPart, model: ModelId) -> None:
        super().__init__(config)
        self.card, self.network, self.run, self.model = card, network, run, model
        self.device = "cpu"  # where points go, and with them voxels and sets

    def warm_up(self) -> None:
        points = np.zeros((1000, 3), np.float32)
        wanted = self.card.points
        low, high = np.array(wanted.minimum_m), np.array(wanted.maximum_m)
        points[:] = low + np.random.default_rng(0).random((1000, 3)) * (high - low)
        self._detect(np.concatenate((points, np.zeros((1000, len(wanted.features)), np.float32)), axis=1))

    def on_sweep(self, sweep: PointCloud) -> Detections3D:
        base_link_from_card = self._base_link_from_card(sweep.header.frame_id)
        points, adaptations = self._cloud(sweep, base_link_from_card.inverse())
        found = self._detect(points)
        kept = found.score >= self.config.score_min
        boxes = Boxes(found.center_m[kept], found.size_lwh_m[kept], found.yaw_rad[kept]).transformed(
            base_link_from_card
        )
        header = msgspec.structs.replace(
            sweep.header,
            frame_id="base_link",
            models=(*sweep.header.models, self.model),
            adaptations=(*sweep.header.adaptations, *adaptations),
            degraded=sweep.header.degraded if self.model.trained else (*sweep.header.degraded, UNTRAINED),
        )
        return Detections3D(
            header=header, classes=self.card.class_names, identities=tuple(info.identity for info in self.card.classes),
            center_m=boxes.center_m.astype(np.float32), size_lwh_m=boxes.size_lwh_m.astype(np.float32),
            yaw_rad=boxes.yaw_rad.astype(np.float32), score=found.score[kept], label=found.label[kept],
            velocity_mps=_turned(found.velocity_mps, kept, base_link_from_card),
        )  # fmt: skip

    def _cloud(self, sweep: PointCloud, card_from_base_link: Transform) -> tuple[NDArray[np.float32], tuple[str, ...]]:
        """Return the points as the card wants them, (N, 3 + F), and what had to be adapted."""
        finite = finite_points(sweep)
        card_from_lidar = card_from_base_link @ self.rig.base_link_from(sweep.header.frame_id)
        features, adaptations = self._features(sweep, finite)
        points = np.concatenate((card_from_lidar.apply(host(sweep.xyz_m)[finite]), features), axis=1, dtype=np.float32)
        if self.card.points.sweeps > 1:
            adaptations = (*adaptations, f"one sweep of {self.card.points.sweeps}: lidar_sweeps_detector takes all")
        return points, adaptations

    def _base_link_from_card(self, frame: str) -> Transform:
        """Return where the frame of the card's training data is on this car: its axes, and its origin's height."""
        wanted = self.card.points
        if wanted.origin == "sensor":
            place = self.rig.base_link_from(frame).translation_m
        else:
            place = np.array([0.0, 0.0, wanted.origin_height_m])
        quarter = np.pi / 2 if wanted.axes == "x right, y forward, z up" else 0.0
        return Transform.from_yaw(place, -quarter)

    def _features(self, sweep: PointCloud, kept: NDArray[np.bool_]) -> tuple[NDArray[np.float32], tuple[str, ...]]:
        """Return what the card wants of each point beside its place, (N, F), and what had to be adapted."""
        columns, adaptations = [], []
        for feature in self.card.points.features:
            if feature.name in ("time_lag_s", "sweep_index"):
                columns.append(np.zeros(int(kept.sum()), np.float32))  # of this sweep: now, and number 0
                continue
            values = sweep.intensity if feature.name == "intensity" else sweep.elongation
            if values is None:
                columns.append(np.full(int(kept.sum()), feature.fill, np.float32))
                adaptations.append(f"{feature.name} is not measured: {feature.fill:g} in its place")
                continue
            measured = host(values)[kept]
            if feature.name == "intensity":
                measured, note = scaled_intensity(measured, sweep.intensity_scale, feature.scale)
                adaptations += [note] if note else []
            columns.append(measured.astype(np.float32))
        stacked = np.stack(columns, axis=1) if columns else np.zeros((int(kept.sum()), 0), np.float32)
        return stacked, tuple(adaptations)

    def _detect(self, points: NDArray[np.float32]) -> _Found:
        import torch

        with torch.inference_mode():
            boxes = self.network.detect(torch.from_numpy(np.ascontiguousarray(points)).to(self.device), self.run)
        return _Found(boxes, self.card.points)


class _Found:
    """The network's boxes as arrays, in the card's frame."""

    def __init__(self, boxes: Any, wanted: PointsInput) -> None:
        self.center_m = boxes.center.numpy().astype(np.float64)
        self.size_lwh_m = boxes.size.numpy().astype(np.float64)
        self.yaw_rad = boxes.yaw.numpy().astype(np.float64)
        self.score = boxes.score.numpy().astype(np.float32)
        self.label = boxes.label.numpy().astype(np.uint16)
        self.velocity_mps = None if boxes.velocity is None else boxes.velocity.numpy().astype(np.float32)


def finite_points(sweep: PointCloud) -> NDArray[np.bool_]:
    """Return which points are finite, (N,).

    Raises:
        ShapeError: no point, none that is finite, or too many.
    """
    xyz = host(sweep.xyz_m)
    if len(xyz) == 0:
        raise ShapeError("the sweep has no points")
    if len(xyz) > MAX_POINTS:
        raise ShapeError(f"the sweep has {len(xyz)} points; at most {MAX_POINTS} are taken")
    finite = np.asarray(np.isfinite(xyz).all(axis=1))
    if not finite.any():
        raise ShapeError(f"none of the {len(xyz)} points is finite")
    return finite


def _turned(
    velocity_mps: NDArray[np.float32] | None, kept: NDArray[np.bool_], base_link_from_card: Transform
) -> NDArray[np.float32] | None:
    """Return velocities (N, 2) along the axes of `base_link`."""
    if velocity_mps is None:
        return None
    flat = np.column_stack((velocity_mps[kept], np.zeros(int(kept.sum()))))
    return np.ascontiguousarray(base_link_from_card.rotate(flat)[:, :2], np.float32)


def scaled_intensity(measured: NDArray[np.float32], scale: float, wanted: str) -> tuple[NDArray[np.float32], str]:
    """Return intensities in the scale that the card wants, and what was done to them."""
    unit = measured / np.float32(scale)
    if wanted == "byte":
        return unit * np.float32(255), "" if scale == 255 else "intensity times 255"
    if wanted == "tanh":
        return np.tanh(unit).astype(np.float32), "hyperbolic tangent of the intensity"
    return unit, "" if scale == 1 else f"intensity over {scale:g}"
