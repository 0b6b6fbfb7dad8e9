"""`perception schema`."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def schema(
    name: Annotated[
        str | None,
        typer.Argument(help="A message's schema, launch, rig, camera or node:NAME; none lists them."),
    ] = None,
) -> None:
    """Print a JSON Schema, for example: perception schema perception.tracked_objects/1."""
    if name is None:
        print("\n".join(_names()))
        return
    print(json.dumps(_schema(name), indent=1))


def _names() -> list[str]:
    from perception.messages.topics import MESSAGE_TYPES
    from perception.runtime.launch_file.wiring import shipped_nodes

    return ["launch", "rig", "camera", *(f"node:{node}" for node in shipped_nodes()), *sorted(MESSAGE_TYPES)]


def _schema(name: str) -> dict[str, object]:
    from perception.errors import UserError, did_you_mean
    from perception.messages.schema import record_schema

    if name not in _names():
        raise UserError(f"there is no schema '{name}'; perception schema lists them.{did_you_mean(name, _names())}")
    if name == "launch":
        from perception.runtime.launch_file.models import LaunchFile

        return LaunchFile.model_json_schema()
    if name in ("rig", "camera"):
        from perception.geometry.rig_file import CameraFile, RigFile

        return (RigFile if name == "rig" else CameraFile).model_json_schema()
    if name.startswith("node:"):
        from perception.runtime.launch_file.wiring import node_target
        from perception.runtime.node_factory import node_class

        return node_class(node_target(name.removeprefix("node:"))).Config.model_json_schema()
    return record_schema(name)
