"""What is joined must fit: cameras must see what the LiDAR measures, and classes must mean the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from perception.geometry.rig import Rig, Sensor
from perception.messages import Detections3D, Image, PointCloud, SegmentationMask
from perception.networks.card import Card
from perception.runtime.graph import Edge, NodeSpec
from perception.runtime.launch_file.wiring import Wiring
from perception.runtime.node import Join

RANGES_M = (3.0, 8.0, 20.0, 50.0)
BACKGROUND = "background"


class FusionChecks:
    """Checks of every join.

    Args:
        wiring: the launch file and what is known of it.
        nodes: the connected nodes.
        cards: model cards by node.
    """

    def __init__(self, wiring: Wiring, nodes: Sequence[NodeSpec], cards: Mapping[str, Card]) -> None:
        self.wiring, self.cards = wiring, cards
        self._nodes = nodes
        self._publisher = {topic: node for node in nodes for topic in node.outputs.values()}

    def run(self) -> None:
        """Report every fault."""
        for node in self._nodes:
            for port, declared in self.wiring.classes[node.name].inputs().items():
                if isinstance(declared, Join):
                    edges = [edge for edge in node.edges if edge.input.partition(".")[0] == port]
                    self._frustums(node, edges)
                    self._classes(node, edges)

    def _frustums(self, node: NodeSpec, edges: Sequence[Edge]) -> None:
        rig = self.wiring.rig
        if rig is None:
            return
        clouds = [edge for edge in edges if edge.message_type is PointCloud]
        pictures = [edge for edge in edges if edge.message_type in (SegmentationMask, Image)]
        for cloud in clouds:
            lidar = self._sensor(rig, cloud.topic)
            for picture in pictures:
                camera = self._sensor(rig, picture.topic)
                if lidar is None or camera is None or {lidar.name, camera.name} & self.wiring.unsound_sensors:
                    continue
                if lidar.lidar is not None and camera.camera is not None and not sees(rig, camera, lidar):
                    self.wiring.add(
                        "frustum-misses-lidar", ("nodes", node.name, "inputs", picture.input),
                        f"'{camera.name}' sees nothing of what '{lidar.name}' measures",
                        f"a camera whose picture holds points of '{lidar.name}'; check its transform",
                    )  # fmt: skip

    def _sensor(self, rig: Rig, topic: str) -> Sensor | None:
        """Return the sensor that a topic comes from, by way of the nodes that make one output per sensor."""
        publisher = self._publisher.get(topic)
        name = topic.partition("/")[0]
        if publisher is not None and not publisher.is_source:
            name = topic.split("/")[1] if topic.count("/") > 1 else ""
        return rig.sensors.get(name) or rig.sensors.get(topic.split("/")[1] if "/" in topic else "")

    def _classes(self, node: NodeSpec, edges: Sequence[Edge]) -> None:
        masks = self._cards(edges, SegmentationMask)
        boxes = self._cards(edges, Detections3D)
        for first, (edge, card) in pairwise(masks):
            if [c.name for c in first[1].classes] != [c.name for c in card.classes]:
                self.wiring.add(
                    "classes", ("nodes", node.name, "inputs", edge.input),
                    f"'{first[0].topic}' and '{edge.topic}' have different classes",
                    f"masks of one card, not of '{first[1].name}' and '{card.name}'",
                )  # fmt: skip
        for edge, card in boxes:
            for mask, mask_card in masks[:1]:
                shared = {c.identity for c in card.classes} & {c.identity for c in mask_card.classes} - {BACKGROUND}
                if not shared:
                    self.wiring.add(
                        "classes", ("nodes", node.name, "inputs", edge.input),
                        f"no class of '{edge.topic}' has an identity that '{mask.topic}' knows",
                        f"cards that share one, not '{card.name}' and '{mask_card.name}'",
                    )  # fmt: skip

    def _cards(self, edges: Sequence[Edge], message_type: type) -> list[tuple[Edge, Card]]:
        found = []
        for edge in edges:
            publisher = self._publisher.get(edge.topic)
            if edge.message_type is message_type and publisher is not None and publisher.name in self.cards:
                found.append((edge, self.cards[publisher.name]))
        return found


def sees(rig: Rig, camera: Sensor, lidar: Sensor) -> bool:
    """True where some point that a LiDAR can measure falls into a camera's picture."""
    assert lidar.lidar is not None
    assert camera.camera is not None
    left, right = np.radians(lidar.lidar.horizontal_fov_deg)
    low, high = np.radians(lidar.lidar.vertical_fov_deg)
    across, up, away = np.meshgrid(np.linspace(left, right, 121), np.linspace(low, high, 17), RANGES_M)
    rays = np.stack((np.cos(up) * np.cos(across), np.cos(up) * np.sin(across), np.sin(up)), axis=-1)
    points = (rays * away[..., None]).reshape(-1, 3)
    _, valid = camera.camera.project(rig.transform(camera.frame, lidar.frame).apply(points))
    return bool(valid.any())


__all__ = ["FusionChecks", "sees"]
