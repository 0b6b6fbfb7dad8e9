"""JSON Schema of the records: what `perception schema` prints and recordings carry."""

from __future__ import annotations

import functools
from typing import Any

import msgspec

from perception.messages.layout import ArrayRef, layout_of
from perception.messages.message import Header, Timing
from perception.messages.topics import MESSAGE_TYPES


@functools.cache
def record_schema(schema: str) -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of the MessagePack array of one message type.

    An unknown schema (a user's own type) gives a schema that allows any body.
    """
    message = MESSAGE_TYPES.get(schema)
    roots: list[Any] = [Header, Timing, ArrayRef]
    if message is not None:
        roots.append(layout_of(message).decoder.type)
    parts, definitions = msgspec.json.schema_components(roots, ref_template="#/$defs/{name}")
    body = parts[3] if message is not None else {"type": "object"}
    if message is not None:
        described = definitions[body["$ref"].rpartition("/")[2]]
        described["description"] = " ".join((message.__doc__ or "").split())
        for name, array in layout_of(message).arrays.items():
            described["properties"][name]["description"] = f"{' or '.join(array.dtypes)} {array.legend}"
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": schema,
        "title": schema,
        "description": "A MessagePack array [header, body, pad, buffer, pad, buffer, ..., timing]; an array field of "
        "the body names the element that holds its little-endian bytes. Pads and buffers are of type bin.",
        "type": "array",
        "prefixItems": [parts[0], body],
        "minItems": 3,
        "x-last": parts[1],
        "$defs": definitions,
    }


__all__ = ["record_schema"]
