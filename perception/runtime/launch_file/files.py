"""Find and read launch files: where they are looked up, `--set`, and validation with lines."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from perception.errors import LaunchFileError, UserError, did_you_mean
from perception.runtime.launch_file.faults import Faults
from perception.runtime.launch_file.yaml_lines import Document

ModelT = TypeVar("ModelT", bound=BaseModel)

PACKAGE = Path(__file__).parents[2]
SHIPPED = PACKAGE / "share" / "launch"
CALIBRATION = PACKAGE / "share" / "calibration"


def find_launch_file(given: Path) -> Path:
    """Return the file that is meant: a path, or a bare name looked up here and among the shipped ones.

    Raises:
        LaunchFileError: there is no such file.
    """
    if given.is_file():
        return given
    if given.is_dir():
        raise LaunchFileError(f"{given}: this is a folder; expected a launch file")
    names = sorted(path.name for path in SHIPPED.glob("*.yaml"))
    if given.name == str(given):
        for candidate in (SHIPPED / given.name, SHIPPED / f"{given.name}.yaml"):
            if candidate.is_file():
                return candidate
    shipped = SHIPPED / given.name
    if given.parts[:1] == ("launch",) and len(given.parts) == 2 and shipped.is_file():
        return shipped  # `launch/replay.yaml`, as the README writes it, away from a checkout
    raise LaunchFileError(
        f"{given}: there is no such launch file. Shipped ones: {', '.join(names)}.{did_you_mean(given.name, names)}"
    )


def apply_sets(document: Document, sets: Sequence[str]) -> None:
    """Apply `--set key.key=value`; values are YAML.

    Raises:
        UserError: a setting without "=", or one that leads through a value that has no keys.
    """
    for setting in sets:
        path, equals, text = setting.partition("=")
        if not equals or not path:
            raise UserError(f"--set {setting}: expected KEY=VALUE, such as --set nodes.detector.settings.score_min=0.3")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise UserError(f"--set {setting}: the value is not YAML") from None
        place: dict[str, Any] = document.values
        keys = path.split(".")
        for key in keys[:-1]:
            following = place.setdefault(key, {})
            if not isinstance(following, dict):
                raise UserError(f"--set {setting}: '{key}' holds a value, not keys")
            place = following
        place[keys[-1]] = value


def validated(
    document: Document, model: type[ModelT], faults: Faults, prefix: tuple[str | int, ...] = ()
) -> ModelT | None:
    """Validate parsed YAML (or the part of it at `prefix`) and report each fault at its line.

    Strict: text is no number and `yes` is none either, as what YAML made of a slip would go unnoticed.
    """
    values: Any = document.values
    for key in prefix:
        values = values[key] if isinstance(values, dict) and key in values else {}
    try:
        return _strictly(model, values)
    except ValidationError as error:
        for fault in error.errors():
            _report(document, model, faults, prefix, fault)
        return None


def validated_in_part(
    document: Document, model: type[ModelT], faults: Faults, entries: Collection[str], stand_in: Mapping[str, str]
) -> ModelT | None:
    """Validate as `validated`, but leave out what has faults, so that the rest is checked in the same run.

    Args:
        document: its `left_out` takes the key paths that were left out.
        model: the model.
        faults: takes the faults.
        entries: mappings whose entries can be left out one by one.
        stand_in: values in place of keys that must be there.
    """
    made = validated(document, model, faults)
    if made is not None:
        return made
    values = deepcopy(document.values)
    for path in _faulty_paths(model, values):
        where = path[:2] if path[0] in entries else path[:1]
        document.left_out.add(where)
        place = values if len(where) == 1 else values.get(str(where[0]))
        if isinstance(place, dict):
            place.pop(where[-1], None)
    values |= {key: text for key, text in stand_in.items() if (key,) in document.left_out}
    try:
        return _strictly(model, values)
    except ValidationError:
        return None


def _strictly(model: type[ModelT], values: Any) -> ModelT:
    text = json.dumps(values, default=lambda value: {"not plain": str(value)})
    return model.model_validate_json(text, strict=True)


def _faulty_paths(model: type[BaseModel], values: Any) -> list[tuple[Any, ...]]:
    try:
        _strictly(model, values)
    except ValidationError as error:
        return [tuple(fault["loc"]) for fault in error.errors() if fault["loc"]]
    return []


def _report(
    document: Document, model: type[BaseModel], faults: Faults, prefix: tuple[str | int, ...], fault: Any
) -> None:
    location = tuple(part for part in fault["loc"] if not _is_branch(part))
    path = (*prefix, *location)
    if path in document.unreadable:
        return
    line, name = document.line(*path), ".".join(map(str, path))
    kind = fault["type"]
    if kind == "extra_forbidden":
        known = _known_keys(model, location[:-1])
        hint = did_you_mean(str(location[-1]), known)
        faults.add("unknown-key", document.file, line, f"there is no key '{name}'", f"one of {', '.join(known)}", hint)
    elif kind == "missing":
        faults.add("missing-key", document.file, line, f"'{name}' is missing", "this key")
    else:
        given = repr(fault.get("input"))
        shown = given if len(given) <= 60 else given[:57] + "..."
        expected = fault["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
        faults.add("wrong-type", document.file, line, f"'{name}' is {shown}", expected[:1].lower() + expected[1:])


def _is_branch(part: object) -> bool:
    """True for what pydantic puts into a location for the branch of a union, which no file has."""
    return isinstance(part, str) and (
        part in ("str", "InputFile", "image", "points") or part.startswith(("list[", "function-"))
    )


def _known_keys(model: type[BaseModel], location: tuple[Any, ...]) -> list[str]:
    """Return the keys that the model has at a location."""
    found: Any = model
    for part in location:
        if isinstance(found, type) and issubclass(found, BaseModel):
            field = found.model_fields.get(str(part))
            found = field.annotation if field else None
        else:  # a key of a mapping
            found = next((argument for argument in get_args(found)[1:]), None)
        found = _model_in(found) if not _is_mapping(found) else found
    if _is_mapping(found):
        found = _model_in(get_args(found)[1])
    return list(found.model_fields) if isinstance(found, type) and issubclass(found, BaseModel) else []


def _is_mapping(hint: Any) -> bool:
    return getattr(hint, "__origin__", None) is dict


def _model_in(hint: Any) -> Any:
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        return hint
    for argument in get_args(hint):
        if (found := _model_in(argument)) is not None:
            return found
    return None


__all__ = ["CALIBRATION", "SHIPPED", "apply_sets", "find_launch_file", "validated", "validated_in_part"]
