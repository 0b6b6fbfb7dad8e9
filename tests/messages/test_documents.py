"""The examples of docs/messages.md are records' bodies: each planner message has one, complete and of its type."""

from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec

from perception.messages import outputs
from perception.messages.layout import layout_of
from perception.messages.message import Message

TEXT = (Path(__file__).parents[2] / "docs" / "messages.md").read_text(encoding="utf-8")
EXAMPLES = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)]
TOLD: tuple[type[Message], ...] = (
    outputs.TrackedObjects, outputs.GraphState, outputs.FreeSpace, outputs.Detections3D, outputs.Detections2D,
    outputs.SegmentationMask, outputs.PaintedPoints, outputs.Pose3D, outputs.Recognition, outputs.Status,
)  # fmt: skip


def test_each_message_for_planners_is_told_with_an_example_of_all_its_fields() -> None:
    assert len(EXAMPLES) == len(TOLD)
    for message_type, example in zip(TOLD, EXAMPLES, strict=True):
        assert message_type.SCHEMA in TEXT
        layout = layout_of(message_type)
        fields = set(message_type.__struct_fields__) - {"header", "timing"}
        assert sorted(example) == sorted(fields), message_type.SCHEMA
        body = layout.decoder.decode(msgspec.msgpack.encode(example))
        arrays = [name for name in layout.arrays if getattr(body, name) is not None]
        assert [place.name for place in layout.places(msgspec.structs.asdict(body))] == arrays


def test_the_example_of_an_object_has_all_fields_and_whole_covariances() -> None:
    (one,) = EXAMPLES[0]["objects"]
    assert sorted(one) == sorted(outputs.FusedObject.__struct_fields__)
    counts = {"covariance_pose": 21, "covariance_velocity": 6}
    assert {name: len(one[name]) for name in counts} == counts
    assert len(one["motion"][-1]) == 15
