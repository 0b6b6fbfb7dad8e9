"""The checked graph of a launch file, for commands that look at it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from perception.runtime.graph import Graph


def graph_of(launch_file: Path, replay: Path | None = None) -> Graph:
    """Load a launch file, with the sensors of a log where one is given. Raises as `load_launch`."""
    from perception.runtime.launch_file.files import find_launch_file
    from perception.runtime.launch_file.load import load_launch
    from perception.runtime.launch_file.replay import Replay

    if replay is None:
        return load_launch(find_launch_file(launch_file))
    from perception.logs.open_log import open_log

    return load_launch(find_launch_file(launch_file), replay=Replay(open_log(replay)))


__all__ = ["graph_of"]
