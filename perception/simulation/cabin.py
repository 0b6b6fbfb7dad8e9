"""The cabin: a lit room in the vehicle where somebody acts, with cameras on the head or on the walls.

Sensors whose frame hangs on the rig's frame `cabin` are in it; those that hang on `head`, which hangs on `cabin`, are
worn by the person and look down at the body. The frame `cabin` lies on the floor where the person stands, x where the
person looks, z up. The rig's `cabin_from_head` is the head at rest: the true head moves, and what it sees is exact in
its frame.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception.geometry.transforms import Transform, quaternion_of
from perception.simulation.bodies import Humans
from perception.simulation.classes import BUILDING, PERSON, TERRAIN, WALL
from perception.simulation.parts import BARK, BOX, BRICK, CLOTH, CYLINDER, LAMP, PLAIN, SIGN, Parts, joined, parts
from perception.simulation.scene import Snapshot, Things, texture_seeds_of
from perception.simulation.shading import FLOOR
from perception.simulation.skeleton import ACTIONS, ANGLES, Body, Pose, body_of
from perception.simulation.weather import Weather

Float: TypeAlias = NDArray[np.float64]

ACTION_S = 3.2
"""How long one action lasts."""
BLEND_S = 0.4
"""From the pose of one action to that of the next."""
LIGHT = Weather(
    sun=(0.35, -0.25, 0.9), sun_light=(0.45, 0.43, 0.4), sky_light=(0.4, 0.41, 0.42), zenith=(0.6, 0.6, 0.6),
    horizon=(0.6, 0.6, 0.6), haze_per_m=0.0, exposure=1.0, contrast=0.2, noise=1.5, lamps=True, rain=0.0,
)  # fmt: skip
"""In the cabin it is never dusk."""
WEARER = Things(
    np.array([1]), np.array([PERSON]), np.array([[0.0, 0.0, 0.9]]), np.array([[1.8, 1.9, 2.2]]), np.zeros(1),
    np.zeros((1, 3)),
)  # fmt: skip
"""The person as the one object."""
SWUNG = [ANGLES.index(name) for name in ("hip_l", "hip_r", "shoulder_l", "shoulder_r")]
"""Angles that one person swings wider than another."""


@dataclass(frozen=True, eq=False)
class Wearer:
    """The person at an instant.

    Attributes:
        joints_m: (16, 3) in `cabin`, UnrealEgo's order.
        pelvis_m: (3,).
        cabin_from_head: pose of the head: x where the face looks, z to the crown.
        action: what the person does.
        action_begin_s: since when.
    """

    joints_m: Float
    pelvis_m: Float
    cabin_from_head: Transform
    action: str
    action_begin_s: float


class Cabin:
    """The cabin of a seed.

    Args:
        seed: of the person, the room and the order of actions.
        action: the person does only this; by default one after the other by chance.
    """

    def __init__(self, seed: int, action: str | None = None) -> None:
        self.seed, self.action = seed, action
        random = np.random.default_rng((seed, 5))
        self.scale = float(random.uniform(0.92, 1.08))
        self.tempo_hz = float(random.uniform(0.5, 0.75))
        self.reach = float(random.uniform(0.88, 1.1))
        self.clothes, self.trousers = random.uniform(0.08, 0.75, 3), random.uniform(0.05, 0.45, 3)
        self.room = _room(random)
        looks = np.array([self.scale]), self.clothes[None], self.trousers[None], PERSON
        self._person = {
            with_head: Humans(*looks, np.zeros(1, np.int64), np.zeros((1, 3)), with_head=with_head)
            for with_head in (True, False)
        }
        self._alone = snapshot_of(self._person[True].parts)
        # Two cameras and several truths ask for the same instant.
        self._body_at = lru_cache(maxsize=4)(lambda t_s: self.bodies_at(np.array([t_s])))
        self._wearer_at = lru_cache(maxsize=4)(self._wearer)

    def action_at(self, t_s: float) -> tuple[str, float]:
        """Return what the person does at an instant, and since when."""
        number = max(int(np.floor(t_s / ACTION_S)), 0)
        return self._action(number), number * ACTION_S

    def _action(self, number: int) -> str:
        if self.action is not None:
            return self.action
        return _order(self.seed, number // len(ACTIONS))[number % len(ACTIONS)]

    def _angles(self, t_s: Float, number: int) -> Float:
        """Return the angles (16, N) of the person at instants (N,) of one action."""
        phase, share = t_s * self.tempo_hz, np.minimum((t_s - number * ACTION_S) / BLEND_S, 1.0)
        pose = ACTIONS[self._action(number)](phase)
        if number and share.min() < 1.0 and self._action(number - 1) != self._action(number):
            before = ACTIONS[self._action(number - 1)](phase)
            pose = before.blended(pose, share * share * (3 - 2 * share))
        angles = pose.stacked()
        angles[SWUNG] *= self.reach
        return angles

    def bodies_at(self, t_s: Float) -> Body:
        """Return the person's body at instants (N,), which do not go back, as N bodies."""
        numbers = np.maximum(np.floor(t_s / ACTION_S), 0.0).astype(np.int64)
        spans = [self._angles(t_s[numbers == number], number) for number in dict.fromkeys(numbers.tolist())]
        return body_of(Pose(*np.concatenate(spans, axis=1)), np.full(len(t_s), self.scale))

    def wearer_at(self, t_s: float) -> Wearer:
        """Return joints, head and action at an instant."""
        return self._wearer_at(t_s)

    def _wearer(self, t_s: float) -> Wearer:
        body = self._body_at(t_s)
        action, begin_s = self.action_at(t_s)
        x, y, z = body.facing[0]
        axes = np.array([[x, 0.0, -z], [y, 1.0, 0.0], [z, 0.0, x]])  # ahead, left, up in columns
        head = Transform(body.joints_m[0, 0], quaternion_of(axes))
        return Wearer(body.joints_m[0], body.pelvis_m[0], head, action, begin_s)

    def people_at(self, t_s: Float) -> Iterator[Snapshot]:
        """Yield the person alone at instants (N,), which do not go back."""
        bodies = self.bodies_at(t_s)
        for n in range(len(t_s)):
            yield replace(self._alone, parts=replace(self._alone.parts, rows=self._person[True].rows(bodies.one(n))))

    def at(self, t_s: float, *, with_head: bool = True) -> Snapshot:
        """Return room and person at an instant, in the frame `cabin`."""
        person = self._person[with_head]
        return snapshot_of(joined(replace(person.parts, rows=person.rows(self._body_at(t_s))), self.room))


def snapshot_of(scene: Parts) -> Snapshot:
    """Return a snapshot of parts of the cabin."""
    return Snapshot(scene, WEARER, np.array([FLOOR, 0.0]), texture_seeds_of(scene, WEARER))


@lru_cache(maxsize=1024)
def _order(seed: int, turn: int) -> tuple[str, ...]:
    names = sorted(ACTIONS)
    return tuple(names[k] for k in np.random.default_rng((seed, 6, turn)).permutation(len(names)))


def _room(random: np.random.Generator) -> Parts:
    """Four walls, a ceiling with a lamp, a rug, a cupboard, a table, pictures."""
    wide = random.uniform(2.3, 3.0, 2)
    tone = random.uniform(0.35, 0.7) * np.array([1.0, random.uniform(0.85, 1.0), random.uniform(0.75, 1.0)])
    walls = np.array([[wide[0], 0, 1.4], [-wide[0], 0, 1.4], [0, wide[1], 1.4], [0, -wide[1], 1.4], [0, 0, 2.85]])
    sizes = np.array([[0.05, 4, 1.4], [0.05, 4, 1.4], [4, 0.05, 1.4], [4, 0.05, 1.4], [4, 4, 0.05]])
    look = [int(random.choice((PLAIN, BRICK, BARK))) for _ in range(4)] + [PLAIN]
    groups = [
        parts(BOX, walls, sizes, (1, 0), tone, BUILDING, look),
        parts(BOX, (0, 0, 2.78), (0.5, 0.5, 0.03), (1, 0), (0.9, 0.9, 0.85), WALL, LAMP),
        parts(CYLINDER, (0.1, 0.1, 0.004), (random.uniform(0.7, 1.3), 0.004, 0), (0, 0), random.uniform(0.1, 0.6, 3),
              TERRAIN, CLOTH),
        parts(BOX, (1.6, wide[1] - 0.3, 0.8), (0.5, 0.25, 0.8), (1, 0), random.uniform(0.1, 0.6, 3), WALL, BARK),
        parts(BOX, (-1.5, -wide[1] + 0.45, 0.4), (0.6, 0.35, 0.4), (1, 0), random.uniform(0.1, 0.6, 3), WALL, BARK),
    ]  # fmt: skip
    count = 6
    side = random.choice((-1.0, 1.0), count)
    pictures = np.stack((random.uniform(-1.8, 1.8, count), side * (wide[1] - 0.07), random.uniform(1.0, 2.2, count)), 1)
    size = np.stack((random.uniform(0.15, 0.5, count), np.full(count, 0.02), random.uniform(0.15, 0.4, count)), axis=1)
    groups.append(parts(BOX, pictures, size, (1, 0), random.uniform(0.05, 0.8, (count, 3)), WALL, SIGN))
    ends = pictures[:, [1, 0, 2]] * (wide[0] / wide[1], 1.0, 1.0)
    groups.append(parts(BOX, ends, size[:, [1, 0, 2]], (1, 0), random.uniform(0.05, 0.8, (count, 3)), WALL, SIGN))
    return joined(*groups)


__all__ = ["ACTION_S", "LIGHT", "Cabin", "Wearer", "snapshot_of"]
