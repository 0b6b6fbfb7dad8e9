"""Tables of objects as MessagePack: the bytes that msgspec writes of the same objects, without making them.

Most of an object is as long as of any other: names of fields, heads of arrays, numbers. That is laid out once; one
compiled loop copies it for each object, with the object's numbers in their places, and puts between it what differs in
length.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import msgspec
import numba
import numpy as np
from numpy.typing import NDArray

from perception.messages import FusedObject

if TYPE_CHECKING:
    from perception.tracking.class_lists import ClassLists
    from perception.tracking.object_table import ObjectTable

Bytes: TypeAlias = NDArray[np.uint8]
Index: TypeAlias = NDArray[np.int64]

TEXT, WHOLE, TRUTH, LIST, PAST, VELOCITY, RATE, NO_STEP = range(8)
"""What differs in length, or by the object, each with a number
    TEXT      the column of the text's number
    WHOLE     the column of whole numbers
    TRUTH     the column, 0 or 1
    LIST      which class list
    PAST      0: where the object was
    VELOCITY  the column that tells whether it is known
    RATE      the column that tells whether the object turns
"""
ORIENTATION, SOURCE, MOTION, RECOGNITION, SKELETON, ID, AGE, SEEN, POINTS, KNOWN, TURNS, WHOLES = range(12)
CLASSES, SEMANTICS = range(2)
EXISTENCE, CENTER, HEADING, SIZE, POSE, SPREAD, NOISE, STATE, SPEED, YAW_RATE, FLOATS = (
    0, 1, 4, 6, 9, 16, 19, 21, 36, 38, 39,
)  # fmt: skip
"""The first column of each among all floats."""
NUMBER = 9
"""Bytes of a float, and of a whole number at most."""
UPPER_TRIANGLE = {0: 0, 1: 1, 5: 2, 6: 3, 10: 4, 20: 5, 11: 6}
"""Of the 21 numbers of a pose's covariance those that are estimated, and the columns that they are in."""
NOTHING, FALSE, TRUE, EMPTY, ZERO, FLOAT = b"\xc0", b"\xc2", b"\xc3", b"\x90", b"\0", b"\xcb"
WORDS = ("unavailable", "sign_unknown", "available", "straight", "turning")

_encoder = msgspec.msgpack.Encoder()


class _Floats(NamedTuple):
    """Some columns of floats."""

    first: int
    number: int


class _Layout(NamedTuple):
    """How an object is written."""

    fixed: Bytes
    """What is as long for every object, with zeros where its floats come."""
    places: Index
    """(F, 2) where each of those is, and its column."""
    steps: Index
    """(K, 4) what is no part of `fixed`, its number, and up to which byte of `fixed` and which float all stands before
    it; the last step is none."""


def packed_objects(table: ObjectTable) -> memoryview:
    """Return a table as MessagePack."""
    count, history = len(table.id), table.history
    layout = _layout(
        table.covariance_pose is not None, table.covariance_velocity is not None, table.motion is not None,
        history is not None, table.recognitions is not None, table.skeletons is not None,
    )  # fmt: skip
    texts, starts = _texts((*WORDS, *table.classes.names, *table.semantics.names, *table.sources))
    recognitions = len(starts) - 1
    skeletons = recognitions + len(table.recognitions or ())
    if table.recognitions is not None or table.skeletons is not None:
        more, more_starts = _encoded([*(table.recognitions or ()), *(table.skeletons or ())])
        texts, starts = np.concatenate((texts, more)), np.concatenate((starts, more_starts[1:] + starts[-1]))
    whole = _whole_numbers(table, recognitions - len(table.sources), recognitions, skeletons)
    lists = _joined((table.classes, table.semantics), len(WORDS))
    t_ns, place, ends = history or (np.zeros(0, np.int64), np.zeros((3, 0)), np.zeros(count, np.int64))
    longest = int(np.diff(starts).max(initial=0))
    most = (
        5 + count * (len(layout.fixed) + len(layout.steps) * (3 * NUMBER + longest))
        + len(lists[0]) * (1 + longest + NUMBER) + len(t_ns) * (1 + 4 * NUMBER)
    )  # fmt: skip
    out = np.empty(most, np.uint8)
    end = _objects(
        out, layout.fixed.copy(), layout.places, layout.steps, whole, _floats(table).view(np.uint64), texts, starts,
        *lists, t_ns, np.ascontiguousarray(place.T).view(np.uint64), ends,
    )  # fmt: skip
    return out[:end].data


def _whole_numbers(table: ObjectTable, sources: int, recognitions: int, skeletons: int) -> Index:
    """Return (N, WHOLES), among them the numbers of texts, given those of the first of some kinds."""
    whole, row = np.zeros((len(table.id), WHOLES), np.int64), np.arange(len(table.id))
    whole[:, ORIENTATION], whole[:, SOURCE] = table.orientation, table.source + sources
    whole[:, RECOGNITION], whole[:, SKELETON] = row + recognitions, row + skeletons
    whole[:, ID], whole[:, AGE], whole[:, SEEN] = table.id, table.age_ns, table.last_seen_ns
    whole[:, POINTS], whole[:, KNOWN] = table.num_points, table.has_velocity
    if table.motion is not None:
        whole[:, TURNS] = table.motion.turns
        whole[:, MOTION] = WORDS.index("straight") + whole[:, TURNS]
    return whole


def _floats(table: ObjectTable) -> NDArray[np.float64]:
    floats, half = np.zeros((len(table.id), FLOATS)), table.yaw_rad / 2
    floats[:, EXISTENCE], floats[:, CENTER:HEADING] = table.existence_probability, table.center_m
    floats[:, HEADING], floats[:, HEADING + 1] = np.sin(half), np.cos(half)
    floats[:, SIZE:POSE], floats[:, SPEED:YAW_RATE] = table.size_lwh_m, table.velocity_mps
    if table.covariance_pose is not None:
        floats[:, POSE:SPREAD] = table.covariance_pose
    if table.covariance_velocity is not None:
        floats[:, SPREAD:NOISE] = table.covariance_velocity
    if table.motion is not None:
        floats[:, YAW_RATE], floats[:, NOISE:STATE] = table.motion.yaw_rate_radps, table.motion.noise
        floats[:, STATE:SPEED] = table.motion.covariance
    return floats


@lru_cache(maxsize=64)
def _layout(pose: bool, spread: bool, motion: bool, history: bool, recognitions: bool, skeletons: bool) -> _Layout:
    """Return how an object is written, given what is known of objects."""
    parts: dict[str, list[bytes | _Floats | tuple[int, int]]] = {
        "id": [(WHOLE, ID)], "existence_probability": [_Floats(EXISTENCE, 1)], "classes": [(LIST, CLASSES)],
        "center_m": [b"\x93", _Floats(CENTER, 3)], "rotation_xyzw": [b"\x94\0\0", _Floats(HEADING, 2)],
        "size_lwh_m": [b"\x93", _Floats(SIZE, 3)], "orientation_availability": [(TEXT, ORIENTATION)],
        "velocity_mps": [(VELOCITY, KNOWN)], "covariance_pose": [NOTHING], "covariance_velocity": [NOTHING],
        "has_position_covariance": [TRUE if pose else FALSE], "has_velocity": [(TRUTH, KNOWN)],
        "has_velocity_covariance": [TRUE if spread else FALSE], "age_ns": [(WHOLE, AGE)],
        "last_seen_ns": [(WHOLE, SEEN)], "sources": [(TEXT, SOURCE)], "semantics": [(LIST, SEMANTICS)],
        "num_points": [(WHOLE, POINTS)], "visibility": [NOTHING], "motion": [NOTHING],
        "history": [(PAST, 0) if history else EMPTY], "recognitions": [(TEXT, RECOGNITION) if recognitions else EMPTY],
        "skeleton": [(TEXT, SKELETON) if skeletons else NOTHING],
    }  # fmt: skip
    if pose:
        column = [_Floats(POSE + UPPER_TRIANGLE[k], 1) if k in UPPER_TRIANGLE else ZERO for k in range(21)]
        parts["covariance_pose"] = [b"\xdc\0\x15", *column]
    if spread:
        parts["covariance_velocity"] = [b"\x96", _Floats(SPREAD, 2), ZERO, _Floats(SPREAD + 2, 1), ZERO, ZERO]
    if motion:
        parts["motion"] = [b"\x95", (TEXT, MOTION), (RATE, TURNS), _Floats(NOISE, 2), b"\x9f", _Floats(STATE, 15)]
    fixed, places, steps = b"\xde" + len(parts).to_bytes(2, "big"), [], []
    for name in FusedObject.__struct_fields__:
        fixed += _encoder.encode(name)
        for part in parts.pop(name):
            if isinstance(part, bytes):
                fixed += part
            elif isinstance(part, _Floats):
                places += [(len(fixed) + NUMBER * k + 1, part.first + k) for k in range(part.number)]
                fixed += (FLOAT + bytes(NUMBER - 1)) * part.number
            else:
                steps.append((*part, len(fixed), len(places)))
    steps.append((NO_STEP, 0, len(fixed), len(places)))
    return _Layout(np.frombuffer(fixed, np.uint8), np.array(places), np.array(steps))


def _joined(each: Sequence[ClassLists], first_text: int) -> tuple[Index, NDArray[np.uint64], Index]:
    """Return the texts (M,) and numbers (M,) of some lists of N objects, and where each begins (lists, N + 1)."""
    starts, entries, texts = np.zeros((len(each), len(each[0].ends) + 1), np.int64), 0, []
    for row, lists in enumerate(each):
        texts.append(lists.column + first_text)
        starts[row, 0], starts[row, 1:] = entries, lists.ends + entries
        first_text, entries = first_text + len(lists.names), entries + len(lists.column)
    return np.concatenate(texts), np.concatenate([lists.share for lists in each]).view(np.uint64), starts


@lru_cache(maxsize=64)
def _texts(values: tuple[str | tuple[str, ...], ...]) -> tuple[Bytes, Index]:
    return _encoded(values)


def _encoded(values: Iterable[Any]) -> tuple[Bytes, Index]:
    """Return encoded values, one behind the other, and where each begins and the last ends."""
    encoded = [_encoder.encode(value) for value in values]
    joined = bytearray(b"".join(encoded))  # of the type that joined arrays have: one that may be written to
    return np.frombuffer(joined, np.uint8), np.cumsum([0, *map(len, encoded)])


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def _objects(
    out: Any, fixed: Any, places: Any, steps: Any, whole: Any, floats: Any, texts: Any, starts: Any, entries: Any,
    shares: Any, list_starts: Any, t_ns: Any, past: Any, past_ends: Any,
) -> Any:  # fmt: skip
    """Write objects, and return where they end; floats are given as their bits."""
    at = _head(out, 0, len(whole))
    for n in range(len(whole)):
        done = written = 0
        for k in range(len(steps)):
            step, number, until, floats_until = steps[k]
            for i in range(written, floats_until):
                _bits(fixed, places[i, 0], floats[n, places[i, 1]])
            at = _copy(out, at, fixed, done, until)
            done, written = until, floats_until
            if step == TEXT:
                at = _copy(out, at, texts, starts[whole[n, number]], starts[whole[n, number] + 1])
            elif step == TRUTH:
                at = _byte(out, at, 0xC2 + whole[n, number])
            elif step == WHOLE:
                at = _whole(out, at, whole[n, number])
            elif step == LIST:
                begin, end = list_starts[number, n], list_starts[number, n + 1]
                at = _head(out, at, end - begin)
                for i in range(begin, end):
                    at = _copy(out, _byte(out, at, 0x92), texts, starts[entries[i]], starts[entries[i] + 1])
                    at = _float(out, at, shares[i])
            elif step == PAST:
                begin, end = past_ends[n - 1] if n else 0, past_ends[n]
                at = _head(out, at, end - begin)
                for i in range(begin, end):
                    at = _whole(out, _byte(out, at, 0x94), t_ns[i])
                    for axis in range(3):
                        at = _float(out, at, past[i, axis])
            elif step == VELOCITY and whole[n, number]:
                at = _float(out, _byte(out, at, 0x93), floats[n, SPEED])
                at = _byte(out, _float(out, at, floats[n, SPEED + 1]), 0)
            elif step == VELOCITY:
                at = _byte(out, at, 0xC0)
            elif step == RATE:
                at = _float(out, at, floats[n, YAW_RATE]) if whole[n, number] else _byte(out, at, 0)
    return at


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def _copy(out: Any, at: int, data: Any, begin: int, end: int) -> Any:
    start, source = np.uint64(at), np.uint64(begin)  # what might be a negative index is slow
    for k in range(np.uint64(end - begin)):
        out[start + k] = data[source + k]
    return at + end - begin


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def _byte(out: Any, at: int, value: int) -> Any:
    out[np.uint64(at)] = value
    return at + 1


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def _bits(out: Any, at: int, bits: Any) -> None:
    """Write 64 bits."""
    start = np.uint64(at)
    for k in range(np.uint64(8)):
        out[start + k] = (bits >> (np.uint64(56) - np.uint64(8) * k)) & np.uint64(0xFF)


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def _float(out: Any, at: int, bits: Any) -> Any:
    _bits(out, _byte(out, at, 0xCB), bits)
    return at + NUMBER


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def _big_endian(out: Any, at: int, value: int, count: int) -> Any:
    for k in range(count):
        out[at + k] = (value >> (8 * (count - 1 - k))) & 0xFF
    return at + count


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def _whole(out: Any, at: int, value: int) -> Any:
    """Write a whole number in as few bytes as it needs."""
    if -32 <= value < 128:
        return _big_endian(out, at, value, 1)
    size, head, reach = 0, 0xCC if value > 0 else 0xD0, value if value > 0 else 2 * ~value + 1
    while size < 3 and reach >> (8 << size):
        size += 1
    out[at] = head + size
    return _big_endian(out, at + 1, value, 1 << size)


@numba.njit(cache=True)  # type: ignore[misc,untyped-decorator,unused-ignore]
def _head(out: Any, at: int, count: int) -> Any:
    """Write the head of an array."""
    if count < 16:
        out[at] = 0x90 | count
        return at + 1
    size = 2 if count < 1 << 16 else 4
    out[at] = 0xDC if size == 2 else 0xDD
    return _big_endian(out, at + 1, count, size)


__all__ = ["packed_objects"]
