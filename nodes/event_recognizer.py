"""Recognise activities in the stream of an event camera.

in:  events, packets of one camera, of any length.
     crops, tracked objects; where it is connected, each track is recognised by itself in its part of the picture.
     ego, the car's motion, with which tracked objects are brought to the instant of the events.
out: recognition, the likeliest classes of the newest clip of event images, with the time and the region they speak of.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

import msgspec
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from perception.engines.precision import EngineName, Precision
from perception.errors import GeometryError, UserError, WeightsError
from perception.messages import EventPacket, Header, Message, ModelId, Odometry, Recognition, TrackedObjects, derived
from perception.messages.outputs import ObjectClass
from perception.networks.address import WeightsAddress
from perception.nodes._contract import UNTRAINED
from perception.nodes._event_crops import Region, inside_region, of_classes, regions_of
from perception.nodes._events import PacketGaps, PacketSlices, SliceConfig, events_of, kept
from perception.ops.event_slices import EventSlice, slicer_of
from perception.ops.events import Events
from perception.runtime.node import Lookup, Node, NodeConfig, NodeSetup, On, Out

if TYPE_CHECKING:
    from perception.networks.card import Card
    from perception.networks.estf import ESTF
    from perception.networks.part import RunPart


_ONE = {"images": 1, "clips": 1}
"""What is run at a time: engines of a fixed size are faster."""
DROPPED = "events of the clip were dropped"


class CropConfig(NodeConfig):
    """How event images are cut at tracked objects."""

    margin: Annotated[float, Field(ge=0, le=2)] = 0.1
    """Added on each side of an object's box, as a share of its size."""
    min_px: Annotated[int, Field(ge=2)] = 16
    """Objects that are narrower or lower in the picture are left out."""
    classes: tuple[str, ...] = ()
    """Objects whose likeliest class is one of these, such as person; all if not given."""
    max_tracks: Annotated[int, Field(ge=1)] = 8
    """Objects recognised at a time, the nearest first."""
    forget_ms: Annotated[float, Field(gt=0)] = 500.0
    """A track that has not been seen for so long begins a new clip."""


class EventRecognizerConfig(NodeConfig):
    """Settings of the recogniser."""

    weights: WeightsAddress
    """An ESTF."""
    engine: EngineName = "auto"
    """The fastest that agrees (auto), or one by name."""
    precision: Precision = "fp32"
    """What the engine computes in; below fp32 it must still agree."""
    slice: SliceConfig | Literal["packets"] | None = None
    """How events are cut into images; by default the card's window; packets: as an event_slicer cut them."""
    stride: Annotated[int, Field(ge=1)] | None = None
    """Images from one member of a clip to the next; by default the card's, 5 as published."""
    every: Annotated[int, Field(ge=1)] = 1
    """Recognise at every so many images. A multiple of the stride embeds only the images that clips use."""
    top_k: Annotated[int, Field(ge=1)] = 5
    """Classes given out, the likeliest first."""
    partial: bool = False
    """Also recognise before a clip is full, repeating its images as published for short recordings."""
    crop: CropConfig = CropConfig()
    """Used where the input `crops` is connected."""


class _Clip:
    """The images of one region, and the time they span."""

    def __init__(self, network: ESTF, run: RunPart, stride: int) -> None:
        from perception.networks.estf_stream import ClipStream

        self.stream = ClipStream(network, run, stride)
        self.images: deque[tuple[int, int]] = deque(maxlen=(network.config.clip_len - 1) * stride + 1)
        """When each image begins, and how many of its events were dropped."""
        self.last_ns = 0

    def add(self, image: NDArray[np.uint8], piece: EventSlice) -> None:
        import torch

        from perception.networks.estf import normalised

        self.stream.add(normalised(torch.from_numpy(image)))
        self.images.append((piece.begin_ns, piece.dropped))
        self.last_ns = piece.end_ns


class EventRecognizer(Node):
    """One network on one camera; each image passes the stem once per region."""

    Config = EventRecognizerConfig
    NETWORKS: ClassVar = ("estf",)

    events = On[EventPacket](keep="all", bound=30)  # 0.3 s: beyond it old packets are dropped, and their events counted
    crops = Lookup[TrackedObjects]()
    ego = Lookup[Odometry]()
    recognition = Out[Recognition]()

    @classmethod
    def create(cls, config: EventRecognizerConfig, setup: NodeSetup) -> Self:
        from torch import set_num_threads

        if isinstance(config.slice, SliceConfig) and config.slice.by == "stamps":
            raise UserError(
                "images at the stamps of a sensor are cut by an event_slicer: read its slices, slice: packets"
            )
        from perception.engines.choose import EngineSettings, compile_parts
        from perception.engines.engine import run_on
        from perception.networks.estf import ESTF
        from perception.networks.load import load_network

        set_num_threads(setup.threads)
        loaded = load_network(config.weights, ESTF, *setup.search_folders[:1])
        if loaded.card.network not in cls.NETWORKS:
            raise WeightsError(f"'{config.weights}' is of {loaded.card.network}; this node drives an ESTF")
        said: list[str] = []
        settings = EngineSettings(config.engine, config.precision, setup.threads, _ONE)
        engines = compile_parts(loaded.network.parts(), settings, say=said.append)
        names = ", ".join(sorted({engine.name for engine in engines.values()}))
        model = ModelId(id=loaded.model_id, engine=names, trained=not loaded.untrained)
        node = cls(
            config, loaded.card, loaded.network, run_on(engines), model, cropping=bool(setup.inputs.get("crops"))
        )
        node.degraded = (UNTRAINED,) if loaded.untrained else ()
        node.said = (*loaded.notes, *said)
        node._tell()
        return node

    def __init__(
        self, config: EventRecognizerConfig, card: Card, network: ESTF, run: RunPart, model: ModelId, *,
        cropping: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(config)
        self.card, self.network, self.run, self.model, self.cropping = card, network, run, model, cropping
        self.said: tuple[str, ...] = ()
        slicing = config.slice or SliceConfig(by="time", period_ms=card.events.window_ms)
        self._adaptations = _adaptations(slicing, card)
        self._slicer = PacketSlices() if slicing == "packets" else slicer_of(slicing.rule())
        self._gaps = PacketGaps()
        stride = config.stride or card.events.stride
        # Where only every stride-th image is a member of a clip that is asked for, the others need no embedding.
        self._take_every = stride if config.every % stride == 0 else 1
        self._stride = stride // self._take_every
        self._images = 0
        self._clips: dict[int, _Clip] = {}
        self._source: tuple[Header, int, int] | None = None
        self._tell()

    def warm_up(self) -> None:
        clip = _Clip(self.network, self.run, self._stride)
        side = self.card.events.size[0]
        clip.add(np.full((side, side, 3), 255, np.uint8), EventSlice(0, 1, Events.none()))
        clip.stream.logits()

    def on_events(self, packet: EventPacket) -> Iterator[tuple[str, Message]]:
        events = kept(events_of(packet))
        size = (packet.height_px, packet.width_px)
        if self._source is not None and self._source[1:] != size:
            self.reset("the sensor has another size")
        self._source = (packet.header, *size)
        lost = self._gaps.lost_before(packet)
        if isinstance(self._slicer, PacketSlices):
            slices = self._slicer.add(events, lost, packet.header.t_sensor_ns)
        else:
            slices = self._slicer.add(events, lost)
        for piece in slices:
            yield from self._on_slice(piece)
        self._tell()

    def reset(self, reason: str) -> None:
        del reason
        self._slicer.reset()
        self._gaps.reset()
        self._clips.clear()
        self._images = 0
        self._tell()

    def _on_slice(self, piece: EventSlice) -> Iterator[tuple[str, Message]]:
        if piece.after_gap:
            self._clips.clear()
        self._images += 1
        if self._images % self._take_every:
            return
        assert self._source is not None
        header, height, width = self._source
        whole = (0, 0, width, height)
        regions = self._regions(piece.end_ns, header) if self.cropping else {0: whole}
        self._forget(piece.end_ns)
        for track, region in regions.items():
            clip = self._clips.setdefault(track, _Clip(self.network, self.run, self._stride))
            clip.add(_image(piece.events, region, whole), piece)
            if self._images % self.config.every == 0 and (clip.stream.full or self.config.partial):
                yield "recognition", self._recognised(clip, track, region if self.cropping else None, header)

    def _regions(self, t_ns: int, header: Header) -> dict[int, Region]:
        """Return the regions of the tracked objects that the camera sees now, by track id."""
        objects = self.crops.at(t_ns)
        if objects is None or t_ns - objects.header.t_sensor_ns > self.config.crop.forget_ms * 1e6:
            return {}
        sensor = self.rig.sensor_of_frame(header.frame_id)
        if sensor is None or sensor.camera is None:
            raise GeometryError(
                f"crops need an event camera with intrinsics on the rig; '{header.frame_id}' is "
                + ("no frame of a sensor" if sensor is None else f"that of '{sensor.name}', which has none")
            )
        crop = self.config.crop
        optical_from_base_link = self.rig.base_link_from(header.frame_id).inverse()
        found = regions_of(
            of_classes(objects, crop.classes), t_ns, sensor.camera, optical_from_base_link, self.ego.at(t_ns),
            crop.margin, crop.min_px,
        )  # fmt: skip
        return dict(list(found.items())[: crop.max_tracks])

    def _forget(self, t_ns: int) -> None:
        if self.cropping:
            oldest_ns = t_ns - self.config.crop.forget_ms * 1e6
            self._clips = {track: clip for track, clip in self._clips.items() if clip.last_ns >= oldest_ns}

    def _recognised(self, clip: _Clip, track: int, region: Region | None, header: Header) -> Recognition:
        logits = clip.stream.logits().numpy().astype(np.float64)
        probability = np.exp(logits - logits.max())
        probability /= probability.sum()
        best = np.argsort(-probability, kind="stable")[: self.config.top_k]
        names = self.card.class_names
        made = derived(header, t_sensor_ns=clip.last_ns)
        reasons = (() if self.model.trained else (UNTRAINED,)) + (
            (DROPPED,) if any(dropped for _, dropped in clip.images) else ()
        )
        made = msgspec.structs.replace(
            made, models=(*made.models, self.model), adaptations=(*made.adaptations, *self._adaptations),
            degraded=(*made.degraded, *reasons),
        )  # fmt: skip
        return Recognition(
            header=made, t_begin_ns=clip.images[0][0], t_end_ns=clip.last_ns, region_px=region, track_id=track,
            top=tuple(ObjectClass(names[index], float(probability[index])) for index in best),
        )  # fmt: skip

    def _tell(self) -> None:
        tracks = (f"clips of {len(self._clips)} tracks",) if self.cropping else ()
        self.notes = (*self.said, self._slicer.account.line(), *tracks)


def _image(events: Events, region: Region, whole: Region) -> NDArray[np.uint8]:
    from perception.ops.event_frames import event_image

    left, top, right, bottom = region
    return event_image(events if region == whole else inside_region(events, region), bottom - top, right - left)


def _adaptations(slicing: SliceConfig | Literal["packets"], card: Card) -> tuple[str, ...]:
    """Return what differs from the input that the card states."""
    window_ms = card.events.window_ms
    if slicing == "packets":
        return (f"event images as their slicer cut them; the card states {window_ms:g} ms",)
    if slicing.by == "time" and slicing.period_ms == window_ms:
        return ()
    how = f"of {slicing.period_ms:g} ms" if slicing.by == "time" else f"cut by {slicing.by}"
    return (f"event images {how}; the card states {window_ms:g} ms",)


__all__ = ["CropConfig", "EventRecognizer", "EventRecognizerConfig"]
