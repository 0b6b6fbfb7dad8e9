"""`perception check`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer


def check(
    launch_file: Annotated[Path, typer.Argument(metavar="FILE", help="A path, or the name of a shipped launch file.")],
    replay: Annotated[Path | None, typer.Option(help="Check it with the sensors of this log.")] = None,
    sets: Annotated[list[str] | None, typer.Option("--set", help="KEY.KEY=VALUE in place of the file's.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the faults as JSON.")] = False,
) -> int:
    """Report every fault of FILE, its rig, calibration and models at once, for example: perception check car.yaml.

    Each line is `file:line: code: what; expected what`. Exit code 2 where there is a fault. docs/checks.md lists the
    codes.
    """
    from perception.runtime.launch_file.files import find_launch_file
    from perception.runtime.launch_file.load import check_launch
    from perception.runtime.launch_file.replay import Replay

    file = find_launch_file(launch_file)
    given = None
    if replay is not None:
        from perception.logs.open_log import open_log

        given = Replay(open_log(replay))
    graph, faults = check_launch(file, sets=sets or [], replay=given)
    if as_json:
        print(json.dumps({"file": str(file), "faults": faults.documents()}, indent=1))
    else:
        for fault in faults.all():
            print(fault, file=sys.stderr)
        if not faults:
            waits = "" if graph is not None else "; its sensors are a log's: give --replay LOG to check them too"
            print(f"{file}: no faults{waits}")
    return 2 if faults else 0
