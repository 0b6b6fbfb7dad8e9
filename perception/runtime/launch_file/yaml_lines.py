"""Read YAML with the line of every key and value, and refuse what no hand-written file has."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from perception.runtime.launch_file.faults import Faults

Path_: TypeAlias = "tuple[str | int, ...]"

MAX_BYTES = 1 << 20
MAX_DEPTH = 30


@dataclass
class Document:
    """Parsed YAML: plain values, and the line (from 1) of each key path."""

    file: Path
    values: dict[str, Any]
    lines: dict[Path_, int] = field(default_factory=dict)
    unreadable: set[Path_] = field(default_factory=set)
    """Key paths whose value is not plain YAML; they are reported once, not again for what they are not."""
    left_out: set[Path_] = field(default_factory=set)
    """Key paths with faults that were left out, so that the rest could be checked too."""

    def lost(self, key: str) -> set[str]:
        """Return the names of the entries of a mapping that were left out."""
        return {str(path[1]) for path in self.left_out if path[0] == key and len(path) > 1}

    def line(self, *path: str | int) -> int:
        """Return the line of a key path, or of the nearest one above it that the file has."""
        for end in range(len(path), -1, -1):
            if path[:end] in self.lines:
                return self.lines[path[:end]]
        return 1


def read_yaml(file: Path, faults: Faults, duplicate_codes: dict[Path_, str] | None = None) -> Document | None:
    """Read a YAML file of keys and values; None, with a fault reported, where it is none.

    Args:
        file: the file.
        faults: takes the faults.
        duplicate_codes: the code of a duplicate key by the path it stands in; others are "duplicate-key".
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        faults.add("file-missing", file, 1, f"cannot be read: {error.strerror}", "a readable file")
        return None
    return parse_yaml(data, file, faults, duplicate_codes)


def parse_yaml(
    data: bytes, file: Path, faults: Faults, duplicate_codes: dict[Path_, str] | None = None
) -> Document | None:
    """Parse YAML bytes; as `read_yaml`."""
    if len(data) > MAX_BYTES:
        faults.add(
            "file-too-large", file, 1, f"has {len(data)} bytes", f"a hand-written file of at most {MAX_BYTES} bytes"
        )
        return None
    try:
        node = yaml.compose(data, Loader=_WithoutAliases)
    except _AliasError:
        faults.add(
            "file-too-large", file, 1, "uses YAML aliases", "each value written out: an alias can blow up the file"
        )
        return None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        faults.add("not-yaml", file, mark.line + 1 if mark else 1, f"not YAML: {problem}", "keys and values")
        return None
    if not isinstance(node, yaml.MappingNode):
        faults.add("not-yaml", file, 1, "holds no keys and values", "a mapping such as 'name: car'")
        return None
    document = Document(file, {}, {(): 1})
    reader = _Reader(document, faults, duplicate_codes or {})
    values = reader.value(node, ())
    assert isinstance(values, dict)
    document.values = values
    return document


class _AliasError(Exception):
    """A value that stands elsewhere."""


class _WithoutAliases(yaml.SafeLoader):
    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise _AliasError
        return super().compose_node(parent, index)


class _Reader:
    def __init__(self, document: Document, faults: Faults, duplicate_codes: dict[Path_, str]) -> None:
        self._document, self._faults, self._codes = document, faults, duplicate_codes
        self._constructor = yaml.SafeLoader("")

    def value(self, node: yaml.Node, path: Path_) -> Any:
        if len(path) > MAX_DEPTH:
            self._faults.add(
                "file-too-large",
                self._document.file,
                _line(node),
                "is nested too deeply",
                f"at most {MAX_DEPTH} levels",
            )
            return None
        self._document.lines.setdefault(path, _line(node))
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
        try:
            return self._constructor.construct_object(node)
        except (yaml.YAMLError, ValueError) as error:
            problem = getattr(error, "problem", None) or str(error)
            self._document.unreadable.add(path)
            self._faults.add(
                "not-yaml",
                self._document.file,
                _line(node),
                f"not a plain value: {problem}",
                "text, number, true or false",
            )
            return None

    def _mapping(self, node: yaml.MappingNode, path: Path_) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value) if isinstance(key_node, yaml.ScalarNode) else ""
            line = _line(key_node)
            if key in found:
                code = self._codes.get(path, "duplicate-key")
                first = self._document.lines[(*path, key)]
                self._faults.add(
                    code, self._document.file, line, f"'{key}' stands here again, after line {first}", "each name once"
                )
                continue
            self._document.lines[(*path, key)] = line
            found[key] = self.value(value_node, (*path, key))
        return found


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


__all__ = ["Document", "parse_yaml", "read_yaml"]
