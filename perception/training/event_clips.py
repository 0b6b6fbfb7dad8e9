"""Clips of event images of somebody who acts in the cabin, simulated by seed: what ESTF learns from.

The event camera is costly to simulate, so a seed is simulated once, from its beginning and through all actions, and
kept as marks of short windows. An image of any longer window is the union of their marks, exactly as
`ops.event_frames` draws it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from perception.geometry.rig import Rig
from perception.networks.estf import RGB_MEAN
from perception.ops.event_frames import EventImage, colours_of
from perception.ops.events import Events
from perception.simulation.cabin import ACTION_S
from perception.simulation.skeleton import ACTIONS
from perception.simulation.world import World
from perception.training.world import Sample

CLASSES = tuple(ACTIONS)
"""What ESTF tells apart, in the order of its logits."""
STEP_MS = 50
"""Time that the marks of one step show."""
STEPS = 2
"""Steps that one image shows."""
WINDOW_MS = STEP_MS * STEPS
"""Time that one image shows; images follow each other without a gap."""
SECONDS = 5 * ACTION_S
"""Of each world: some actions of one person, since many persons teach more than much of one."""


CAMERA = "event_cabin"


def cabin_events(rig: Rig, seed: int) -> Iterator[Sample]:
    """Yield one sample: what the event camera of the cabin sees while the person does five actions.

    `packed` (T, H, W / 4) marks of the steps, four pixels a byte; `action` (T,) what the person does at the end of each
    step, an index into `CLASSES`.
    """
    recording = recorded(rig, seed, SECONDS)
    yield {"packed": packed(recording.marks), "action": recording.action}


@dataclass(frozen=True, eq=False)
class ActionRecording:
    """What the event camera of one seed saw.

    Attributes:
        marks: (T, H, W) of the steps, bit 0 where something got brighter, bit 1 where darker.
        action: (T,) what the person does at the end of each step, an index into `CLASSES`.
    """

    marks: NDArray[np.uint8]
    action: NDArray[np.int64]


def recorded(rig: Rig, seed: int, seconds: float) -> ActionRecording:
    """Simulate the event camera of a rig's cabin, from a seed's beginning on."""
    world, model = World(seed), rig.camera(CAMERA)
    stream = world.event_stream(rig, CAMERA, 0)
    picture = EventImage(model.height_px, model.width_px)
    marks, action = [], []
    for step in range(1, int(seconds * 1000) // STEP_MS + 1):
        end_ns = step * STEP_MS * 1_000_000
        events = stream(end_ns)
        picture.clear()
        picture.add(Events(events.t_ns, events.x, events.y, events.polarity))
        marks.append(picture.marks())
        action.append(CLASSES.index(world.wearer(end_ns).action))
    return ActionRecording(np.stack(marks), np.array(action))


def packed(marks: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Put four neighbours of the last axis, a multiple of four long, into a byte."""
    first, second, third, fourth = (marks[..., offset::4] << np.uint8(2 * offset) for offset in range(4))
    found: NDArray[np.uint8] = first | second | third | fourth
    return found


def unpacked(marks: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Undo `packed`."""
    found: NDArray[np.uint8] = np.stack([marks >> shift & 3 for shift in (0, 2, 4, 6)], axis=-1)
    return found.reshape(*marks.shape[:-1], -1)


def run_of(sample: Sample, begin: int, images: int) -> ActionRecording:
    """Return consecutive images of a sample of `cabin_events`, from a step on, and what is done at the end of each."""
    end = begin + images * STEPS
    marks = unpacked(sample["packed"][begin:end])
    steps = marks.reshape(images, STEPS, *marks.shape[1:])
    return ActionRecording(np.bitwise_or.reduce(steps, axis=1), sample["action"][begin + STEPS - 1 : end : STEPS])


@dataclass(frozen=True)
class EventAugmentation:
    """How runs of images are varied while learning, all images of a run alike.

    Attributes:
        shift: the picture is cut by up to this share of its size at each border.
        lost: marks that vanish, up to this share.
        noise: pixels that are marked by chance, up to this share.
    """

    shift: float = 0.08
    lost: float = 0.3
    noise: float = 0.003

    def apply(self, marks: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
        """Vary the marks (L, H, W) of a run; its pictures become a little smaller."""
        _, height, width = marks.shape
        top, bottom = (random.random(2) * self.shift * height).astype(int)
        left, right = (random.random(2) * self.shift * width).astype(int)
        cut = marks[:, top : height - bottom, left : width - right]
        chance = random.random(cut.shape, np.float32)
        kept = np.where(chance < self.lost * random.random(), 0, cut)
        marked = chance > 1.0 - self.noise * random.random()
        found: NDArray[np.uint8] = np.where(marked, kept | random.integers(1, 3, cut.shape, np.uint8), kept)
        return found


def images_of(marks: NDArray[np.uint8]) -> Tensor:
    """Paint marks (N, H, W) as ESTF reads them: float32 (N, 3, H, W), mean subtracted."""
    table = torch.from_numpy(colours_of(np.arange(4, dtype=np.uint8))).to(torch.float32) - torch.tensor(RGB_MEAN)
    return table[torch.from_numpy(marks).to(torch.int64)].permute(0, 3, 1, 2)


__all__ = [
    "CLASSES", "STEPS", "WINDOW_MS", "ActionRecording", "EventAugmentation", "cabin_events", "images_of", "packed",
    "recorded", "run_of", "unpacked",
]  # fmt: skip
