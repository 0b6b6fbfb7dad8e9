"""How a message class is laid out in a record: which fields are arrays, and what their dtypes and shapes must be."""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_args, get_type_hints

import msgspec
import numpy as np
from numpy.typing import NDArray

from perception.errors import MessageError, ShapeError
from perception.messages.message import Header, Message, Timing
from perception.messages.spec import ArraySpec

_GROUP = re.compile(r"\(([^()]*)\)")
MAX_KNOWN = 256
"""Combinations of shapes that a layout remembers as sound."""
_TERM = re.compile(r"([a-zA-Z_]+)\s*(?:\+\s*(\d+))?")


class ArrayRef(msgspec.Struct, frozen=True):
    """What stands in the body for an array: its bytes are `record[element]`, little-endian, C order."""

    dtype: str
    shape: tuple[int, ...]
    element: int


@dataclass(frozen=True)
class ArrayField:
    """One array field: allowed dtypes and shapes; a dimension is a number, or a name with what is added to it."""

    name: str
    dtypes: tuple[str, ...]
    shapes: tuple[tuple[int | tuple[str, int], ...], ...]
    legend: str

    def check(self, dtype: str, shape: tuple[int, ...], sizes: dict[str, int]) -> None:
        """Check against the declaration and against `sizes`, the named dimensions seen so far in this message.

        Raises:
            ShapeError: dtype or shape is not as declared.
        """
        if dtype not in self.dtypes:
            raise ShapeError(f"{self.name} is {dtype}; expected {' or '.join(self.dtypes)}")
        for expected in self.shapes:
            if len(expected) != len(shape):
                continue
            seen = dict(sizes)
            if all(_fits(size, dimension, seen) for size, dimension in zip(shape, expected, strict=True)):
                sizes.update(seen)
                return
        known = ", ".join(f"{name} = {size}" for name, size in sizes.items() if name in self.legend)
        raise ShapeError(f"{self.name} has shape {shape}; expected {self.legend}{' with ' + known if known else ''}")


def _fits(size: int, dimension: int | tuple[str, int], seen: dict[str, int]) -> bool:
    if isinstance(dimension, int):
        return size == dimension
    name, plus = dimension
    return seen.setdefault(name, size - plus) == size - plus >= 0


@dataclass(frozen=True, slots=True)
class Place:
    """One array of a message: where in the record it is and how it is read."""

    name: str
    element: int
    dtype: np.dtype[Any]
    nbytes: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """The fields of one message class without header and timing, and what decodes its body and its whole records."""

    arrays: Mapping[str, ArrayField]
    records: Mapping[int, msgspec.msgpack.Decoder[Any]]
    decoder: msgspec.msgpack.Decoder[Any]
    _references: Callable[[Mapping[str, Any]], Any]
    _known: dict[Any, tuple[Place, ...]] = dataclasses.field(default_factory=dict)

    def places(self, body: Mapping[str, Any]) -> tuple[Place, ...]:
        """Return where the arrays of one message are; what was sound once is not worked out again.

        Args:
            body: the fields by name, with an `ArrayRef` or None for each array.

        Raises:
            ShapeError: dtype or shape of an array is not as declared.
        """
        key = self._references(body)
        places = self._known.get(key)
        if places is None:
            places = self._checked(body)
            if len(self._known) < MAX_KNOWN:  # pictures repeat their sizes, point clouds never do
                self._known[key] = places
        return places

    def _checked(self, body: Mapping[str, Any]) -> tuple[Place, ...]:
        places: list[Place] = []
        sizes: dict[str, int] = {}
        for name, field in self.arrays.items():
            reference = body[name]
            if reference is not None:
                field.check(reference.dtype, reference.shape, sizes)
                dtype = np.dtype(reference.dtype).newbyteorder("<")
                nbytes = math.prod(reference.shape) * dtype.itemsize  # Python integers: no overflow
                places.append(Place(name, reference.element, dtype, nbytes, reference.shape))
        return tuple(places)


@functools.cache
def layout_of(message_type: type[Message]) -> Layout:
    """Return the layout of a message class; worked out once."""
    hints = get_type_hints(message_type, include_extras=True)
    arrays: dict[str, ArrayField] = {}
    body: list[Any] = []
    for field in msgspec.structs.fields(message_type):
        if field.name in ("header", "timing"):
            continue
        hint = hints[field.name]
        spec = next((item for item in get_args(hint)[1:] if isinstance(item, ArraySpec)), None)
        if spec is not None:
            arrays[field.name] = ArrayField(field.name, tuple(spec.dtypes.split()), _shapes(spec.shape), spec.shape)
            hint = ArrayRef if field.required else ArrayRef | None
        body.append((field.name, hint) if field.required else (field.name, hint, _default(field)))
    struct = msgspec.defstruct(f"{message_type.__name__}Body", body, frozen=True, kw_only=True)
    references = operator.itemgetter(*arrays) if arrays else lambda _: None
    return Layout(arrays, _record_decoders(struct), msgspec.msgpack.Decoder(struct), references)


def _record_decoders(body: type[msgspec.Struct]) -> dict[int, msgspec.msgpack.Decoder[Any]]:
    """Return what decodes a whole record, by its first byte: an array of 3, 5, ... 15. Pads and buffers are views."""
    kinds = {0x93 + 2 * n: tuple[(Header, body, *[memoryview] * (2 * n), Timing)] for n in range(7)}  # type: ignore[misc, valid-type]
    return {first: msgspec.msgpack.Decoder(kind) for first, kind in kinds.items()}


def _default(field: msgspec.structs.FieldInfo) -> Any:
    if field.default is not msgspec.NODEFAULT:
        return field.default
    return msgspec.field(default_factory=field.default_factory)


def _shapes(legend: str) -> tuple[tuple[int | tuple[str, int], ...], ...]:
    return tuple(
        tuple(_dimension(term.strip()) for term in group.split(",") if term.strip()) for group in _GROUP.findall(legend)
    )


def _dimension(term: str) -> int | tuple[str, int]:
    if term.isdigit():
        return int(term)
    match = _TERM.fullmatch(term)
    if match is None:
        raise TypeError(f"cannot read '{term}' in the legend of an array's shape")
    return match[1], int(match[2] or 0)


@functools.cache
def dtype_name(dtype: np.dtype[Any]) -> str:
    """Return numpy's name of a dtype, such as "float32"; numpy works it out anew each time."""
    return dtype.name


def little_endian(array: NDArray[Any]) -> NDArray[Any]:
    """Return the array contiguous and little-endian; itself where it is."""
    if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("<"))
    return array if array.flags.c_contiguous else np.ascontiguousarray(array)


def buffer_view(place: Place, buffer: memoryview) -> NDArray[Any]:
    """Return a read-only array over a record's buffer.

    Raises:
        MessageError: the buffer has another size.
    """
    if len(buffer) != place.nbytes:
        raise MessageError(
            f"not a valid record: {place.name} {place.dtype.name}{list(place.shape)} needs {place.nbytes} "
            f"bytes, its buffer has {len(buffer)}"
        )
    array = np.frombuffer(buffer, place.dtype)  # np.ndarray would let go of the memoryview, and with it of the memory
    if not buffer.readonly:
        array.flags.writeable = False
    return array if len(place.shape) == 1 else array.reshape(place.shape)


__all__ = [
    "ArrayField",
    "ArrayRef",
    "Layout",
    "Place",
    "buffer_view",
    "dtype_name",
    "layout_of",
    "little_endian",
]
