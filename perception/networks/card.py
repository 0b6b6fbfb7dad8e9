"""A model card: what one set of weights expects and says, as data.

One card per network and checkpoint, `cards/<name>.yaml`, copied into the metadata of the weights file. `check` reads it
without torch. A sensor meets the card, is adapted to it (which the header of every output then says), or is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from perception.errors import WeightsError, did_you_mean

CARDS = Path(__file__).parent / "cards"
NetworkName: TypeAlias = Literal["ddrnet", "p2at", "dsvt", "flatformer", "deepinteraction", "egoposeformer", "estf"]
Triple: TypeAlias = tuple[float, float, float]


class _Data(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ClassInfo(_Data):
    """One class that the network tells apart."""

    name: str
    colour: tuple[int, int, int]
    """Red, green, blue, 0 to 255, for pictures."""
    identity: str
    """What it is to a planner, the same word in every card: road, sidewalk, person, car, ... or background."""


class ImageInput(_Data):
    """An image: RGB over 255, minus the mean, over the deviation."""

    kind: Literal["image"]
    size: Annotated[tuple[int, int], Field(description="height and width that the weights were trained or tuned for")]
    views: int = 1
    """Pictures of one instant that make one input; two are left and right."""
    multiple_of: int = 1
    mean: Triple
    std: Triple


class EventsInput(_Data):
    """A clip of images drawn from events: red brighter, blue darker, on white; 0 to 255 minus the mean."""

    kind: Literal["events"]
    size: Annotated[tuple[int, int], Field(description="height and width that images are resized to, out of shape")]
    clip_len: int
    stride: int
    """Images from one member of the clip to the next."""
    window_ms: float
    """Time that one image shows, at the density of events of the training data."""
    mean: Triple
    """Of red, green and blue."""


class PointFeature(_Data):
    """One number of each point beside x, y and z."""

    name: Literal["intensity", "elongation", "time_lag_s", "sweep_index"]
    """sweep_index: 0 for the last sweep, -1 for the one before it."""
    scale: Literal["unit", "byte", "tanh", "seconds", "count"]
    """unit: full scale is 1; byte: full scale is 255; tanh: the hyperbolic tangent of the value in unit scale."""
    fill: float
    """What stands in where the sensor does not measure it."""


class PointsInput(_Data):
    """A point cloud."""

    kind: Literal["points"]
    axes: Literal["x forward, y left, z up", "x right, y forward, z up"]
    origin: Literal["ground below the vehicle", "sensor"]
    """Where the frame of the training data has its origin."""
    origin_height_m: float
    """Height of that origin above the ground."""
    minimum_m: Triple
    maximum_m: Triple
    features: tuple[PointFeature, ...]
    sweeps: int = 1


class SkeletonInfo(_Data):
    """A body of joints, as the network gives them."""

    joints: tuple[str, ...]
    limbs: tuple[tuple[int, int], ...]
    """Parent and child of each bone, indices into the joints."""
    reference: str
    """The point that joints are relative to."""
    unit_m: float
    """Metres in one unit of the network's coordinates."""
    reference_m: Triple | None = None
    """Of weights that were trained for a constant reference: where it lies in the left camera's optical frame."""


class SurroundInput(_Data):
    """A point cloud and the images of cameras around it."""

    kind: Literal["points_and_images"]
    points: PointsInput
    image: ImageInput
    cameras: int
    """As many as the training data had; fewer run, and more."""


class Card(_Data):
    """Everything that a node, a check and a reader need to know about one set of weights."""

    name: str
    network: NetworkName
    summary: str
    configuration: dict[str, Any]
    """Fields of the network's configuration class that differ from its defaults."""
    input: Annotated[ImageInput | PointsInput | SurroundInput | EventsInput, Field(discriminator="kind")]
    classes: tuple[ClassInfo, ...]
    skeleton: SkeletonInfo | None = None
    prefix: str = ""
    """What published checkpoints put before every parameter name."""
    dropped: tuple[str, ...] = ()
    """Beginnings of entries (after the prefix) that published checkpoints hold and this configuration does not use."""
    source: str
    """Where weights that fit this card come from, and under which licence."""
    licence: str

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(info.name for info in self.classes)

    @property
    def image(self) -> ImageInput:
        """The image contract; WeightsError if the network takes something else."""
        if isinstance(self.input, SurroundInput):
            return self.input.image
        if not isinstance(self.input, ImageInput):
            raise WeightsError(f"card '{self.name}' is of a network on {self.input.kind}, not on images")
        return self.input

    @property
    def events(self) -> EventsInput:
        """The event contract; WeightsError if the network takes something else."""
        if not isinstance(self.input, EventsInput):
            raise WeightsError(f"card '{self.name}' is of a network on {self.input.kind}, not on events")
        return self.input

    @property
    def points(self) -> PointsInput:
        """The point cloud contract; WeightsError if the network takes something else."""
        if isinstance(self.input, SurroundInput):
            return self.input.points
        if not isinstance(self.input, PointsInput):
            raise WeightsError(f"card '{self.name}' is of a network on {self.input.kind}, not on points")
        return self.input


class _UniqueKeys(yaml.SafeLoader):
    """The safe loader, which would take the last of two equal keys in silence, made to refuse them."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        mapping = super().construct_mapping(node, deep)
        if len(mapping) != len(node.value):
            keys = [self.construct_object(key) for key, _ in node.value]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise yaml.constructor.ConstructorError(None, None, f"the key '{twice}' stands twice", node.start_mark)
        return mapping


def read_card(path: Path) -> Card:
    """Read a card file.

    Raises:
        WeightsError: the file is missing, or is no card; every fault is listed.
    """
    try:
        return card_from(yaml.load(path.read_text(), _UniqueKeys), str(path))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise WeightsError(f"{path}: not a model card ({error})") from error


def card_from(data: object, source: str) -> Card:
    """Make a card of parsed YAML or JSON; `source` names it in the error.

    Raises:
        WeightsError: it is no card; every fault is listed.
    """
    try:
        return Card.model_validate(data)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise WeightsError(f"{source}: not a model card: {faults}") from error


def shipped_cards() -> dict[str, Path]:
    """Return the cards of the package by name."""
    return {path.stem: path for path in sorted(CARDS.glob("*.yaml"))}


def find_card(name: str, folder: Path | None = None) -> Card:
    """Return a shipped card by name, or the card file at a path (relative to `folder`).

    Raises:
        WeightsError: there is none.
    """
    shipped = shipped_cards()
    if name in shipped:
        return read_card(shipped[name])
    if name.endswith((".yaml", ".yml")):
        return read_card((folder or Path()) / name)
    raise WeightsError(f"no card '{name}'; shipped are {', '.join(shipped)}.{did_you_mean(name, shipped)}")
