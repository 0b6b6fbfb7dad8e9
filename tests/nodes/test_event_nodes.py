"""Nodes on events: the streaming clip against the whole clip, tracks cut by hand, and an account that balances."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from perception.errors import GeometryError, UserError
from perception.geometry.rig import Rig, rig_of_documents
from perception.geometry.rig_file import CameraFile, RigFile, SensorFile, TransformFile
from perception.messages import (
    EventPacket,
    FusedObject,
    Header,
    Image,
    ModelId,
    Odometry,
    Recognition,
    TrackedObjects,
    host,
)
from perception.messages.outputs import ObjectClass
from perception.networks.card import find_card
from perception.networks.estf import ESTF, ESTFConfig, normalised
from perception.networks.layers.resnet import ResNetConfig
from perception.networks.part import run_in_torch
from perception.networks.weights import fill
from perception.nodes._contract import UNTRAINED
from perception.nodes._event_crops import of_classes, regions_of
from perception.nodes._events import SliceConfig
from perception.nodes.event_recognizer import DROPPED, EventRecognizer, EventRecognizerConfig
from perception.nodes.event_slicer import EventSlicer, EventSlicerConfig
from perception.ops.event_frames import window_images
from perception.ops.events import Events
from perception.runtime.node import NodeSetup

HEIGHT, WIDTH, MS = 48, 64, 1_000_000
TINY = ESTFConfig(
    stem=ResNetConfig(depths=(1, 1, 1, 1), widths=(8, 8, 16, 16)), image_size=64, dim=32, mlp_ratio=1.0,
    hidden=(32, 32), unused_entries=False,
)  # fmt: skip


@pytest.fixture(scope="module")
def network() -> ESTF:
    tiny = ESTF(TINY).eval()
    fill(tiny)
    return tiny


def stream(milliseconds: int = 120, count: int = 6000) -> Events:
    random = np.random.default_rng(2)
    return Events.of(
        np.sort(random.integers(0, milliseconds * MS, count)), random.integers(0, WIDTH, count),
        random.integers(0, HEIGHT, count), random.integers(0, 2, count),
    )  # fmt: skip


def packets(events: Events, pieces: int = 9, frame: str = "event_camera_optical") -> list[EventPacket]:
    borders = [len(events) * piece // pieces for piece in range(pieces + 1)]
    return [
        EventPacket(
            header=Header(frame_id=frame, t_sensor_ns=int(events.t_ns[end - 1])), height_px=HEIGHT, width_px=WIDTH,
            t_ns=events.t_ns[begin:end], x=events.x[begin:end], y=events.y[begin:end],
            polarity=events.polarity[begin:end], events_before=begin,
        )
        for begin, end in pairwise(borders)
    ]  # fmt: skip


def recognizer(network: ESTF, runs: Counter[str] | None = None, **settings: Any) -> EventRecognizer:
    cropping = settings.pop("cropping", False)
    run_part = run_in_torch(network.parts())

    def run(name: str, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        if runs is not None:
            runs[name] += 1
        with torch.no_grad():
            return run_part(name, inputs)

    config = EventRecognizerConfig(weights="filled:estf_compact", **settings)
    model = ModelId(id="tiny", engine="torch", trained=False)
    node = EventRecognizer(config, find_card("estf_compact"), network, run, model, cropping=cropping)
    node.ego = SimpleNamespace(at=lambda t_ns: None)  # type: ignore[assignment]
    return node


def recognitions(node: EventRecognizer, given: list[EventPacket]) -> list[Recognition]:
    found = [message for packet in given for _, message in node.on_events(packet)]
    assert all(isinstance(message, Recognition) for message in found)
    return found  # type: ignore[return-value]


def test_the_stream_says_what_the_network_says_of_the_whole_clip(network: ESTF) -> None:
    events = stream()
    found = recognitions(recognizer(network, stride=1), packets(events))
    images = np.stack(list(window_images(events, [(k * 10 * MS, (k + 1) * 10 * MS) for k in range(12)], HEIGHT, WIDTH)))
    assert [(message.t_begin_ns, message.t_end_ns) for message in found] == [
        (begin * 10 * MS, (begin + 8) * 10 * MS) for begin in range(len(found))
    ]
    assert len(found) == 4
    for begin, message in enumerate(found):
        clip = normalised(torch.from_numpy(images[begin : begin + 8])).transpose(0, 1).unsqueeze(0)
        with torch.no_grad():
            expected = network(clip)[0].softmax(0)
        best = expected.topk(5)
        names = find_card("estf_compact").class_names
        assert [entry.label for entry in message.top] == [names[index] for index in best.indices.tolist()]
        np.testing.assert_allclose([entry.probability for entry in message.top], best.values.numpy(), rtol=1e-3)
        assert message.region_px is None
        assert UNTRAINED in message.header.degraded
        assert DROPPED not in message.header.degraded


def test_packets_of_another_length_give_the_same_recognitions(network: ESTF) -> None:
    few, many = (recognitions(recognizer(network, stride=1), packets(stream(), pieces)) for pieces in (3, 77))
    assert [(m.t_begin_ns, m.t_end_ns, m.top) for m in few] == [(m.t_begin_ns, m.t_end_ns, m.top) for m in many]


def test_a_new_image_costs_one_pass_of_the_stem(network: ESTF) -> None:
    runs: Counter[str] = Counter()
    found = recognitions(recognizer(network, runs, stride=1), packets(stream()))
    assert runs["image_tokens"] == 11  # of twelve windows the last one is still open
    assert runs["clip"] == len(found)


def test_only_images_that_clips_use_are_embedded_where_every_is_a_multiple_of_the_stride(network: ESTF) -> None:
    sparse, dense = Counter[str](), Counter[str]()
    few = recognitions(recognizer(network, sparse, stride=2, every=2), packets(stream(200)))
    all_of_them = recognitions(recognizer(network, dense, stride=2, every=1), packets(stream(200)))
    assert sparse["image_tokens"] < dense["image_tokens"]
    same = {m.t_end_ns: [entry.label for entry in m.top] for m in all_of_them}
    assert few
    assert all(same[m.t_end_ns] == [entry.label for entry in m.top] for m in few if m.t_end_ns in same)


def test_a_clip_that_is_not_full_speaks_only_where_that_is_asked_for(network: ESTF) -> None:
    short = packets(stream(35, 2000))
    assert recognitions(recognizer(network), short) == []
    found = recognitions(recognizer(network, partial=True), short)
    assert [message.t_end_ns for message in found] == [10 * MS, 20 * MS, 30 * MS]


def test_a_silence_begins_a_new_clip(network: ESTF) -> None:
    first, later = stream(95), stream(95)
    later = Events(later.t_ns + 5_000 * MS, later.x, later.y, later.polarity)
    found = recognitions(recognizer(network, stride=1), [*packets(first), *packets(later)])
    assert all(message.t_end_ns - message.t_begin_ns == 80 * MS for message in found)


def test_events_lost_in_a_queue_are_in_the_account_and_degrade_the_clip(network: ESTF) -> None:
    given = packets(stream())
    node = recognizer(network, stride=1)
    found = recognitions(node, [packet for place, packet in enumerate(given) if place != 2])
    lost = len(host(given[2].t_ns))
    account = node._slicer.account
    assert account.balanced
    assert account.received + account.waiting == 6000
    assert sum(account.dropped.values()) == lost
    assert f"{lost} lost before they came here" in node.notes[-1]
    assert DROPPED in found[0].header.degraded


def test_other_windows_than_the_cards_are_said_in_every_header(network: ESTF) -> None:
    (message, *_) = recognitions(
        recognizer(network, partial=True, slice=SliceConfig(by="count", count=500)), packets(stream())
    )
    assert message.header.adaptations == ("event images cut by count; the card states 10 ms",)


def test_slices_of_a_slicer_are_taken_as_they_are(network: ESTF) -> None:
    cutter = slicer(by="time", period_ms=10)
    cut = [m for packet in packets(stream()) for _, m in cutter.on_events(packet) if isinstance(m, EventPacket)]
    by_slicer = recognitions(recognizer(network, stride=1, slice="packets"), cut)
    by_itself = recognitions(recognizer(network, stride=1), packets(stream()))
    assert [m.top for m in by_slicer] == [m.top for m in by_itself]
    assert [m.t_end_ns for m in by_slicer] == [m.t_end_ns for m in by_itself]
    setup = NodeSetup(name="r", rig=None, inputs={}, search_folders=())
    stamped = EventRecognizerConfig(weights="filled:estf_compact", slice=SliceConfig(by="stamps"))
    with pytest.raises(UserError, match="event_slicer"):
        EventRecognizer.create(stamped, setup)


def rig() -> Rig:
    """An event camera 1 m above the road at the origin, looking ahead: f 32 px, centre (31.5, 23.5)."""
    document = RigFile(
        name="r", base_link="road",
        sensors={"ec": SensorFile(kind="event_camera", rate_hz=100, calibration="ec.yaml")},
        transforms={"base_link_from_ec": TransformFile(translation_m=(0, 0, 1), rotation_xyzw=(0, 0, 0, 1))},
    )  # fmt: skip
    intrinsics = CameraFile(
        model="plumb_bob", width_px=WIDTH, height_px=HEIGHT, focal_px=(32.0, 32.0), center_px=(31.5, 23.5)
    )
    return rig_of_documents(document, {"ec": intrinsics}, {})


def tracked(identity: int, x: float, y: float, t_ns: int = 0, **more: Any) -> TrackedObjects:
    """A cube of 2 m, its middle as high as the camera."""
    cube = FusedObject(
        id=identity, existence_probability=1.0, center_m=(x, y, 1.0), rotation_xyzw=(0.0, 0.0, 0.0, 1.0),
        size_lwh_m=(2.0, 2.0, 2.0), **({"classes": ()} | more),
    )  # fmt: skip
    return TrackedObjects(header=Header(frame_id="base_link", t_sensor_ns=t_ns), objects=(cube,))


def regions(objects: TrackedObjects, t_ns: int = 0, ego: Odometry | None = None) -> dict[int, Any]:
    found = rig()
    camera = found.camera("ec")
    return regions_of(objects, t_ns, camera, found.base_link_from("ec_optical").inverse(), ego, 0.0, 4)


def test_a_cube_five_metres_ahead_is_sixteen_pixels_wide() -> None:
    # Its near face, 4 m ahead, spans +-32 * 1 / 4 = 8 px around the centre (31.5, 23.5): 23.5 to 39.5, 15.5 to 31.5.
    assert regions(tracked(7, 5.0, 0.0)) == {7: (23, 15, 41, 33)}


def test_objects_behind_beside_or_too_far_have_no_region() -> None:
    assert regions(tracked(7, -5.0, 0.0)) == {}
    assert regions(tracked(7, 5.0, 30.0)) == {}
    assert regions(tracked(7, 100.0, 0.0)) == {}


def test_an_object_is_moved_by_its_velocity_and_the_car_by_its_own() -> None:
    here = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)
    moving = tracked(7, 5.0, 0.0, velocity_mps=(0.0, 10.0, 0.0))
    moving = TrackedObjects(header=moving.header, objects=moving.objects, odom_from_base_link=here)
    ego = Odometry(
        header=Header(frame_id="odom", t_sensor_ns=100 * MS), translation_m=(0.0, 1.0, 0.0),
        rotation_xyzw=(0.0, 0.0, 0.0, 1.0),
    )  # fmt: skip
    # In 0.1 s the object moved 1 m to the left, and so did the car: it stays where it was in the picture.
    assert regions(moving, 100 * MS, ego) == regions(tracked(7, 5.0, 0.0))
    assert regions(moving, 100 * MS) == regions(tracked(7, 5.0, 0.0))  # without ego motion nothing is moved


def test_each_track_has_a_clip_of_its_own_region(network: ESTF) -> None:
    node = recognizer(network, cropping=True, partial=True, stride=1, crop={"margin": 0.0, "min_px": 4})
    node.rig = rig()
    both = tracked(7, 5.0, 0.0)
    both = TrackedObjects(header=both.header, objects=(*both.objects, *tracked(9, 5.0, 3.0).objects))
    node.crops = SimpleNamespace(at=lambda t_ns: both)  # type: ignore[assignment]
    found = recognitions(node, packets(stream(35, 3000), frame="ec_optical"))
    # The second cube reaches from y = 4 m (left of the picture) to y = 2 m, whose far edge lies at 31.5 - 32 * 2 / 6.
    assert {(message.track_id, message.region_px) for message in found} == {
        (7, (23, 15, 41, 33)), (9, (0, 15, 22, 33)),
    }  # fmt: skip
    alone = {message.t_end_ns: message.top for message in found if message.track_id == 7}
    events = stream(35, 3000)
    cut = events[(events.x >= 23) & (events.x < 41) & (events.y >= 15) & (events.y < 33)]
    (image,) = window_images(cut, [(0, 10 * MS)], HEIGHT, WIDTH)
    tiles = normalised(torch.from_numpy(image[15:33, 23:41])).unsqueeze(1).repeat(1, 8, 1, 1).unsqueeze(0)
    with torch.no_grad():
        expected = network(tiles)[0].softmax(0).max()
    assert alone[10 * MS][0].probability == pytest.approx(float(expected), rel=1e-3)


def test_only_objects_of_the_classes_that_are_asked_for_are_cut_out() -> None:
    car = tracked(7, 5.0, 0.0, classes=(ObjectClass("car", 0.6), ObjectClass("person", 0.4)))
    assert of_classes(car, ()) is car
    assert of_classes(car, ("car",)).objects == car.objects
    assert of_classes(car, ("person",)).objects == ()
    assert of_classes(tracked(7, 5.0, 0.0), ("person",)).objects == ()


def test_a_track_that_is_not_seen_any_more_is_forgotten(network: ESTF) -> None:
    node = recognizer(network, cropping=True, partial=True, stride=1, crop={"forget_ms": 20})
    node.rig = rig()
    node.crops = SimpleNamespace(at=lambda t_ns: tracked(7, 5.0, 0.0))  # type: ignore[assignment]
    found = recognitions(node, packets(stream(100), frame="ec_optical"))
    assert [message.t_end_ns for message in found] == [10 * MS, 20 * MS]
    assert node.notes[-1] == "clips of 0 tracks"


def test_crops_without_intrinsics_are_refused_with_the_reason(network: ESTF) -> None:
    node = recognizer(network, cropping=True)
    node.rig = rig()
    node.crops = SimpleNamespace(at=lambda t_ns: tracked(7, 5.0, 0.0))  # type: ignore[assignment]
    with pytest.raises(GeometryError, match="no frame of a sensor"):
        recognitions(node, packets(stream()))


def slicer(inputs: tuple[str, ...] = (), **how: Any) -> EventSlicer:
    setup = NodeSetup(name="s", rig=None, inputs={"events": ("e",), "stamps": inputs}, search_folders=())
    return EventSlicer.create(EventSlicerConfig(slice=SliceConfig(**how)), setup)


def test_slices_have_the_stamp_of_their_end_and_number_the_events_of_the_stream() -> None:
    node = slicer(by="time", period_ms=30, max_events=500)
    found = [m for packet in packets(stream()) for _, m in node.on_events(packet)]
    found += [m for _, m in node.finish()]
    slices = [m for m in found if isinstance(m, EventPacket)]
    assert [m.header.t_sensor_ns for m in slices[:3]] == [30 * MS, 60 * MS, 90 * MS]
    total = 0
    for piece in slices:
        assert piece.events_before == total
        assert len(host(piece.t_ns)) <= 500
        total += len(host(piece.t_ns)) + piece.dropped
    assert total == 6000
    assert node.notes == (node._slicer.account.line(),)
    assert node.notes[0].startswith("events: 6000 in = ")


def test_slices_end_at_the_stamps_of_a_camera() -> None:
    node = slicer(("cam/image",), by="stamps")
    picture = np.zeros((1, 1), np.uint8)
    found = [m for packet in packets(stream()) for _, m in node.on_events(packet)]
    for t_ms in (33, 66, 99):
        image = Image(
            header=Header(frame_id="c", t_sensor_ns=t_ms * MS), encoding="mono8", height_px=1, width_px=1, data=picture
        )
        found += [m for _, m in node.on_stamps(image)]
    assert [m.header.t_sensor_ns for m in found] == [33 * MS, 66 * MS, 99 * MS]


@pytest.mark.parametrize(("inputs", "by"), [((), "stamps"), (("cam/image",), "time")])
def test_stamps_and_their_input_belong_together(inputs: tuple[str, ...], by: str) -> None:
    with pytest.raises(UserError, match="belong together"):
        slicer(inputs, by=by)
