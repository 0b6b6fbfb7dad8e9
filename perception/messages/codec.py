"""Messages as bytes: one MessagePack array `[header, body, pad, buffer, pad, buffer, ..., timing]`.

Header, body and timing are maps. An array field stands in the body as `{"dtype", "shape", "element"}` and its bytes are
the record's element of that index. Each pad is a `bin` that brings the next buffer to a multiple of 64 bytes from the
start of the record. `timing` is last, so that publishing moves no byte, and equal bytes before it mean equal messages.
Any MessagePack library reads it:

    header, body, *rest, timing = record = msgpack.unpackb(data)
    label = body["label"]
    mask = np.frombuffer(record[label["element"]], label["dtype"]).reshape(label["shape"])

Shared memory, ZeroMQ, recordings and the ledger hold these bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias, TypeVar, cast, overload

import msgspec
import numpy as np
from numpy.typing import NDArray

from perception.errors import MessageError, ShapeError
from perception.messages.array import host
from perception.messages.layout import ArrayRef, Layout, buffer_view, dtype_name, layout_of, little_endian
from perception.messages.message import Header, Message, Timing
from perception.messages.packed import Packed
from perception.messages.topics import message_type as type_of_schema

M = TypeVar("M", bound=Message)
Bytes: TypeAlias = bytes | bytearray | memoryview | NDArray[np.uint8]

ALIGNMENT = 64
MAX_ARRAYS = 32
MAX_STRUCTURED_BYTES = 64 << 20  # header, body and timing, which become Python objects; buffers are never copied
MAX_BUFFER_BYTES = 0xFFFF_FFFF  # of MessagePack's bin 32


def _packed(value: Any) -> msgspec.Raw:
    if isinstance(value, Packed):
        return msgspec.Raw(value.packed())
    raise TypeError(f"objects of type {type(value).__name__} are none of a message's")


_encoder = msgspec.msgpack.Encoder(enc_hook=_packed)
_header_decoder = msgspec.msgpack.Decoder(Header)
_timing_decoder = msgspec.msgpack.Decoder(Timing)
_parts_decoder = msgspec.msgpack.Decoder(list[msgspec.Raw])
_PADS = [bytes((0xC4, length, *bytes(length), 0xC6)) for length in range(ALIGNMENT)]
"""A pad of each length: the two bytes of its own head, its zeros, and the first of the next buffer's five."""


class Cuts(NamedTuple):
    """Where a record's body and its timing begin, for who passes it on and need not read all that is between."""

    body: int
    timing: int


class Record:
    """A message laid out as a record, not yet written.

    It refers to the message's arrays: write it before they change. `size` is the exact number of bytes; `is_in_place`
    says that the first array is laid out where `encode` was told that its bytes are.
    """

    __slots__ = ("_buffers", "_tail", "cuts", "is_in_place", "size")

    def __init__(
        self,
        buffers: list[tuple[bytearray, NDArray[Any]]],
        tail: bytes | bytearray,
        size: int,
        cuts: Cuts,
        *,
        is_in_place: bool = False,
    ) -> None:
        """Take each array with what stands before it, and what stands after the last."""
        self._buffers, self._tail, self.size, self.cuts = buffers, tail, size, cuts
        self.is_in_place = is_in_place

    def write_into(self, target: memoryview | bytearray, *, but_first: bool = False) -> int:
        """Write the record to the start of a writable buffer of at least `size` bytes and return `size`.

        Args:
            target: the buffer.
            but_first: the first array's bytes are where they belong already, which `is_in_place` must allow.

        Raises:
            MessageError: the buffer is too small.
        """
        if len(target) < self.size:
            raise MessageError(f"a record of {self.size} bytes does not fit into a buffer of {len(target)}")
        at = 0
        for before, array in self._buffers:
            start = at + len(before)
            target[at:start] = before
            at = start + array.nbytes
            if at > start and not but_first:
                target[start:at] = array.data.cast("B") if array.ndim else array.tobytes()
            but_first = False
        target[at : self.size] = self._tail
        return self.size

    def to_bytes(self) -> bytes:
        """Return the record as bytes of its own."""
        pieces: list[Any] = []
        for before, array in self._buffers:
            pieces += (before, array.reshape(-1).view(np.uint8).data if array.nbytes else b"")
        return b"".join([*pieces, self._tail])


def encode(message: Message, placed: NDArray[Any] | None = None, placed_at: int = 0) -> Record:
    """Lay a message out as a record; device arrays are copied to the host.

    Args:
        message: what to lay out.
        placed: an array whose bytes are where the record will be already; where it is the message's first it is laid
            out there, if what stands before it leaves room.
        placed_at: where in the record they are, a multiple of 64.

    Raises:
        MessageError: the header's schema is of another message type, or there are too many or too large arrays.
        ShapeError: an array has not the dtype or shape that the message type declares.
    """
    schema, header = type(message).SCHEMA, message.header
    if header.schema != schema:
        if header.schema:
            raise MessageError(f"the header's schema is '{header.schema}', a {type(message).__name__} has '{schema}'")
        header = msgspec.structs.replace(header, schema=schema)
    layout = layout_of(type(message))
    body = msgspec.structs.asdict(message)
    del body["header"], body["timing"]
    arrays: list[NDArray[Any]] = []
    for name in layout.arrays:
        value = body[name]
        if value is not None:
            array = host(value)
            body[name] = ArrayRef(dtype_name(array.dtype), array.shape, 3 + 2 * len(arrays))
            arrays.append(little_endian(array))
    layout.places(body)
    elements = 3 + 2 * len(arrays)
    head = bytearray((0x90 | elements,)) if elements < 16 else bytearray(struct.pack(">BH", 0xDC, elements))
    _append(header, head)
    begin = len(head)
    _append(body, head)
    first_at = placed_at if placed is not None and arrays and arrays[0] is placed else 0
    return _lay_out(head, begin, arrays, message.timing, first_at)


def _encode(value: Any) -> bytearray:
    encoded = bytearray()
    _append(value, encoded)
    return encoded


def _append(value: Any, encoded: bytearray) -> None:
    try:
        _encoder.encode_into(value, encoded, -1)
    except (TypeError, OverflowError, ValueError, RecursionError) as error:
        raise MessageError(f"a message holds a value that has no place in a record: {error}") from None


def _lay_out(before: bytearray, body: int, arrays: list[NDArray[Any]], timing: Timing, first_at: int) -> Record:
    """Put arrays and timing behind header and body, which begins at `body`."""
    at, buffers, is_in_place = 0, [], False
    for array in arrays:
        nbytes = array.nbytes
        if nbytes > MAX_BUFFER_BYTES or len(arrays) > MAX_ARRAYS:
            raise MessageError(f"a record holds at most {MAX_ARRAYS} arrays of at most {MAX_BUFFER_BYTES} bytes")
        before += _pad(at + len(before), first_at) + nbytes.to_bytes(4, "big")
        is_in_place |= len(before) == first_at
        buffers.append((before, array))
        at += len(before) + nbytes
        before, first_at = bytearray(), 0
    cuts = Cuts(body, at + len(before))
    _append(timing, before)
    return Record(buffers, before, at + len(before), cuts, is_in_place=is_in_place)


def _pad(at: int, first_at: int) -> bytes:
    """Return the pad at `at`, so that the buffer behind it is aligned; a longer one where that shall begin later."""
    longer = first_at - at - 8
    if longer < 0:
        return _PADS[-(at + 2 + 5) % ALIGNMENT]
    return b"".join((b"\xc5", longer.to_bytes(2, "big"), bytes(longer), b"\xc6"))


@overload
def decode(data: Bytes, message_type: type[M]) -> M: ...
@overload
def decode(data: Bytes, message_type: None = None, more: Mapping[str, type[Message]] = ...) -> Message: ...
def decode(
    data: Bytes,
    message_type: type[Message] | None = None,
    more: Mapping[str, type[Message]] = MappingProxyType({}),
) -> Message:
    """Read a record; its arrays are read-only views of `data` and keep it alive.

    Args:
        data: exactly one record.
        message_type: the expected type; None finds it by the header's schema.
        more: the user's own message types by schema.

    Raises:
        MessageError: the bytes are not a record, or one of another type. Nothing is allocated beyond a small multiple
            of `MAX_STRUCTURED_BYTES`, whatever the bytes claim.
    """
    view = _view(data)
    if message_type is not None and (parts := _read_at_once(view, layout_of(message_type))) is not None:
        header, body, timing = parts[0], parts[1], parts[-1]
    else:
        raw = _split(view)
        header = _read(_header_decoder, raw[0], "header")
        message_type = message_type or type_of_schema(header.schema, more)
        body = _read(layout_of(message_type).decoder, raw[1], "body") if header.schema == message_type.SCHEMA else None
        timing = _read(_timing_decoder, raw[-1], "timing")
        parts = [_bin(part, element) for element, part in enumerate(raw)]
    if header.schema != message_type.SCHEMA:
        raise MessageError(
            f"a record of schema '{header.schema}' came where {message_type.__name__} "
            f"('{message_type.SCHEMA}') is expected"
        )
    values = msgspec.structs.asdict(body)
    try:
        places = layout_of(message_type).places(values)
    except ShapeError as error:
        raise MessageError(f"not a valid record: {error}") from None
    for place in places:
        values[place.name] = buffer_view(place, _buffer(parts, place.element, place.name))
    return message_type(header=header, timing=timing, **values)


def _read_at_once(view: memoryview, layout: Layout) -> Sequence[Any] | None:
    """Read a record in one call, the way of all sound ones; None where `_split` and `_read` shall say what is wrong.

    A record so short cannot hold more structured bytes than allowed, so that nothing has to be measured first.
    """
    decoder = layout.records.get(view[0]) if 3 <= len(view) <= MAX_STRUCTURED_BYTES else None
    if decoder is None:
        return None
    try:
        return decoder.decode(view)  # type: ignore[no-any-return]
    except (msgspec.MsgspecError, RecursionError, MemoryError, UnicodeDecodeError):
        return None


def decode_envelope(data: Bytes, cuts: Cuts | None = None) -> Message:
    """Read a record's header and timing alone, for whoever passes it on.

    Args:
        data: exactly one record.
        cuts: of the record, where they are known: then nothing is read of what is between, however long a list is.

    Raises:
        MessageError: the bytes are not a record.
    """
    view = _view(data)
    if cuts is not None and len(view):
        header, timing = view[3 if view[0] == 0xDC else 1 : cuts.body], view[cuts.timing :]
    else:
        raw = _split(view)
        header, timing = raw[0], raw[-1]
    return Message(header=_read(_header_decoder, header, "header"), timing=_read(_timing_decoder, timing, "timing"))


def decode_header(data: Bytes) -> Header:
    """Read a record's header alone.

    Raises:
        MessageError: the bytes are not a record.
    """
    return cast("Header", _read(_header_decoder, _split(_view(data))[0], "header"))


def decode_timing(data: Bytes) -> Timing:
    """Read a record's timing alone.

    Raises:
        MessageError: the bytes are not a record.
    """
    return cast("Timing", _read(_timing_decoder, _split(_view(data))[-1], "timing"))


def content(data: Bytes) -> memoryview:
    """Return the record's bytes without `timing`: equal contents are equal messages.

    Raises:
        MessageError: the bytes are not a record.
    """
    view = _view(data)
    return view[: len(view) - len(_split(view)[-1])]


def with_timing(data: Bytes, timing: Timing, before: Timing | None = None) -> bytes:
    """Return the same record with another timing.

    Args:
        data: the record.
        timing: the new one.
        before: the timing that it was decoded with, if it was: then its end is known without reading all of it.

    Raises:
        MessageError: the bytes are not a record.
    """
    view = _view(data)
    old = bytearray() if before is None else _encode(before)
    kept = view[: len(view) - len(old)] if old and view[-len(old) :] == old else content(view)
    return b"".join((kept, _encode(timing)))


def _view(data: Bytes) -> memoryview:
    view = data if isinstance(data, memoryview) else memoryview(data)  # type: ignore[arg-type]
    if view.ndim != 1 or view.itemsize != 1 or not view.c_contiguous:
        raise MessageError(f"a record is a row of bytes, not {view.ndim} dimensions of '{view.format}'")
    return view.cast("B") if view.format != "B" else view


def _split(view: memoryview) -> list[memoryview]:
    """Return the encoded elements of a record, after the checks that bound what reading them can cost."""
    first = view[0] if len(view) else 0
    count = first & 0x0F if first & 0xF0 == 0x90 else 0
    if first == 0xDC and len(view) >= 3:
        count = int.from_bytes(view[1:3], "big")
    if not 3 <= count <= 3 + 2 * MAX_ARRAYS or count % 2 == 0:
        raise MessageError(
            "not a record: expected a MessagePack array [header, body, pad, buffer, ..., timing]"
            f"{' but there are no bytes' if not len(view) else ''}"
        )
    try:
        parts = [memoryview(part) for part in _parts_decoder.decode(view)]
    except (msgspec.MsgspecError, RecursionError, MemoryError) as error:
        raise MessageError(f"not a record: {error}") from None
    if len(parts[0]) + len(parts[1]) + len(parts[-1]) > MAX_STRUCTURED_BYTES:
        raise MessageError(f"header, body and timing of a record exceed {MAX_STRUCTURED_BYTES} bytes together")
    return parts


def _read(decoder: msgspec.msgpack.Decoder[Any], part: memoryview, name: str) -> Any:
    try:
        return decoder.decode(part)
    except (msgspec.MsgspecError, RecursionError, MemoryError, UnicodeDecodeError) as error:
        raise MessageError(f"not a valid record: in its {name}: {error}") from None


_BIN_HEADS = {0xC4: 2, 0xC5: 3, 0xC6: 5}


def _bin(part: memoryview, element: int) -> memoryview | None:
    """Return the bytes of an element that is a buffer; None for every other one."""
    head = _BIN_HEADS.get(part[0]) if element >= 3 and element % 2 == 1 else None
    return None if head is None else part[head:]


def _buffer(parts: Sequence[Any], element: int, name: str) -> memoryview:
    if not (3 <= element < len(parts) - 1 and element % 2 == 1):
        raise MessageError(f"not a valid record: {name} refers to element {element}, which is no buffer")
    part = parts[element]
    if not isinstance(part, memoryview):
        raise MessageError(f"not a valid record: element {element}, the buffer of {name}, is not a MessagePack bin")
    return part


__all__ = [
    "ALIGNMENT", "Bytes", "Cuts", "Record", "content", "decode", "decode_envelope", "decode_header", "decode_timing",
    "encode", "with_timing",
]  # fmt: skip
