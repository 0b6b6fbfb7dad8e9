"""Does the rig give what the models were trained on? Model cards against sensors, without torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from perception.errors import PerceptionError
from perception.geometry.rig import Rig, Sensor
from perception.messages import Image, PointCloud
from perception.networks.card import Card, ImageInput, PointsInput, SurroundInput
from perception.runtime.graph import NodeSpec
from perception.runtime.launch_file.wiring import Wiring


def check_cards(wiring: Wiring, nodes: Sequence[NodeSpec], launch_folder: Path) -> dict[str, Card]:
    """Check every node that names weights; returns the cards by node."""
    cards: dict[str, Card] = {}
    for node in nodes:
        address = getattr(node.config, "weights", None)
        if not isinstance(address, str):
            continue
        card = _card(wiring, node, address, launch_folder)
        if card is None:
            continue
        cards[node.name] = card
        drives = getattr(wiring.classes[node.name], "NETWORKS", ())
        if drives and card.network not in drives:
            wiring.add(
                "card-network",
                ("nodes", node.name, "settings", "weights"),
                f"'{address}' is of network '{card.network}'",
                f"one of {', '.join(drives)}",
            )
            continue
        if wiring.rig is not None:
            _check_sensors(wiring, node, card, wiring.rig)
        if isinstance(card.input, ImageInput):
            _check_input_size(wiring, node, card.input)
    return cards


def _card(wiring: Wiring, node: NodeSpec, address: str, launch_folder: Path) -> Card | None:
    from perception.networks.address import card_of

    try:
        return card_of(address, launch_folder)
    except PerceptionError as error:
        wiring.add(
            "weights",
            ("nodes", node.name, "settings", "weights"),
            " ".join(str(error).split()),
            "weights that are there",
        )
        return None


def _check_sensors(wiring: Wiring, node: NodeSpec, card: Card, rig: Rig) -> None:
    points = card.input.points if isinstance(card.input, SurroundInput) else card.input
    for edge in node.edges:
        sensor = rig.sensors.get(edge.topic.partition("/")[0])
        if sensor is None or sensor.name in wiring.unsound_sensors:
            continue
        if edge.message_type is PointCloud and isinstance(points, PointsInput) and sensor.lidar is not None:
            _check_lidar(wiring, node, points, sensor, rig)
        if edge.message_type is Image and isinstance(card.input, PointsInput):
            wiring.add(
                "card-sensor",
                ("nodes", node.name, "settings", "weights"),
                f"card '{card.name}' wants points",
                f"a network on images for '{edge.topic}'",
            )


def _check_lidar(wiring: Wiring, node: NodeSpec, wanted: PointsInput, sensor: Sensor, rig: Rig) -> None:
    lidar, path = sensor.lidar, ("nodes", node.name, "settings", "weights")
    assert lidar is not None
    has = {
        "intensity": lidar.has_intensity,
        "elongation": lidar.has_elongation,
        "time_lag_s": True,
        "sweep_index": True,
    }
    accepts = getattr(node.config, "fill_missing", True)
    for feature in wanted.features:
        if not has[feature.name] and not accepts:
            wiring.add(
                "card-sensor",
                path,
                f"'{sensor.name}' gives no {feature.name}",
                f"a sensor with {feature.name}, or settings: {{fill_missing: true}}",
            )
    reach = max(abs(value) for value in (*wanted.minimum_m[:2], *wanted.maximum_m[:2]))
    if reach > 2 * lidar.range_m[1]:
        wiring.add(
            "card-range",
            path,
            f"the card reaches {reach:g} m, '{sensor.name}' {lidar.range_m[1]:g} m",
            "a card of this sensor's range",
        )
    mounted = float(rig.base_link_from(sensor.frame).translation_m[2])
    ground = -wanted.origin_height_m if wanted.origin == "sensor" else 0.0
    if not wanted.minimum_m[2] <= ground <= wanted.maximum_m[2]:
        wiring.add(
            "card-height",
            path,
            f"the ground, at {ground:.1f} m, is outside {wanted.minimum_m[2]:g} to {wanted.maximum_m[2]:g} m",
            "a range that holds the ground",
        )
    differs = wanted.origin == "sensor" and abs(mounted - wanted.origin_height_m) > 1.0
    if differs and not getattr(node.config, "any_height", False):
        trained = f"the card's sensor {wanted.origin_height_m:.2f} m"
        what = f"'{sensor.name}' is {mounted:.2f} m above the road, {trained}"
        wiring.add("card-height", path, what, "about the same height, or settings: {any_height: true}")


def _check_input_size(wiring: Wiring, node: NodeSpec, wanted: ImageInput) -> None:
    size = getattr(node.config, "input_size", None)
    if size is not None and any(side % wanted.multiple_of or side <= 0 for side in size):
        wiring.add(
            "card-image",
            ("nodes", node.name, "settings", "input_size"),
            f"{size[0]} x {size[1]} pixels",
            f"multiples of {wanted.multiple_of}",
        )


__all__ = ["check_cards"]
