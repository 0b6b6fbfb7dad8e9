"""The command `perception`: a table of subcommands, each loaded when it is called.

`perception --help` reads this file and no other: importing torch, ray or even numpy here would cost every call seconds.
A subcommand is one function in a file of its own, thin over a function that a script can call too. A `PerceptionError`
becomes its text on stderr and its exit code: 2 for the user's mistake, 1 for a failure at run time.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

COMMANDS: dict[str, tuple[str, str]] = {
    "launch": ("perception.cli.launch:launch", "Start the graph of a launch file, live or from a recorded log."),
    "host": ("perception.cli.host:host", "Be a further host of a rig: run what a launch places here."),
    "check": ("perception.cli.check:check", "Report every fault of a launch file at once."),
    "graph": ("perception.cli.graph:graph", "Draw the graph of a launch file."),
    "top": ("perception.cli.top:top", "Show a live table of rates, latencies, drops and states."),
    "topics": ("perception.cli.topics:topics", "List the topics of a launch file with their types."),
    "echo": ("perception.cli.echo:echo", "Print the messages of a published topic."),
    "hz": ("perception.cli.hz:hz", "Measure the rate, gaps and age of a published topic."),
    "record": ("perception.cli.record:record", "Record published topics to an MCAP file."),
    "replay": ("perception.cli.replay:app", "Pause, step, seek and change the pace of a running replay."),
    "simulate": ("perception.cli.simulate:simulate", "Write a simulated drive with its truth to an MCAP file."),
    "log": ("perception.cli.log:app", "Look into recorded logs."),
    "track": ("perception.cli.track:track", "Track recorded detections."),
    "evaluate": ("perception.cli.evaluate:app", "Score a graph on a log, or result files against truth."),
    "verify": ("perception.cli.verify:verify", "Run networks or engines against parity cases."),
    "calibrate": (
        "perception.cli.calibrate:app",
        "Calibrate cameras, LiDARs and clocks; find a bumped sensor in a log.",
    ),
    "train": ("perception.cli.train:train", "Train the compact network of a card in the synthetic world."),
    "weights": ("perception.cli.weights:app", "Import published checkpoints."),
    "engine": ("perception.cli.engine:app", "Build, list and clear compiled engines."),
    "bench": ("perception.cli.bench:app", "Measure speed, side by side with peers."),
    "keys": ("perception.cli.keys:app", "Make CURVE keys for planners on other machines."),
    "doctor": ("perception.cli.doctor:doctor", "Check this machine: memory, ports, packages, accelerators."),
    "schema": ("perception.cli.schema:schema", "Print the JSON Schema of messages or launch files."),
}
"""Subcommand -> where it is ("module:function", or a typer app for a command with subcommands), and its help line."""

USAGE = "Usage: perception [--version] COMMAND [ARGUMENTS]...\n\nStreaming perception for vehicles and edge boxes.\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit the process."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = _main(given)
        print(end="", flush=True)
    except BrokenPipeError:  # such as `perception echo ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left to say is said to nobody
        code = 0
    sys.exit(code)


def _main(given: list[str]) -> int:
    if not given or given[0] in ("--help", "-h", "help"):
        print(_overview())
        return 0 if given else 2
    if given[0] == "--version":
        from perception import __version__

        print(f"perception {__version__}")
        return 0
    return _run(given[0], given[1:])


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join([USAGE, "Commands:", *lines, "", "perception COMMAND --help tells more about each."])


def _run(name: str, arguments: list[str]) -> int:
    from perception.errors import PerceptionError, did_you_mean

    if name not in COMMANDS:
        print(f"perception: there is no command '{name}'.{did_you_mean(name, COMMANDS)}", file=sys.stderr)
        print("perception --help lists the commands.", file=sys.stderr)
        return 2
    try:
        return int(_command(name).main(arguments, prog_name=f"perception {name}", standalone_mode=False) or 0)
    except PerceptionError as error:
        print(f"perception {name}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except (
        Exception
    ) as error:  # what typer's own click raises for wrong usage; anything else is a bug and shows its traceback
        if not hasattr(error, "exit_code"):
            raise
        if hasattr(error, "show"):
            error.show()
        return int(error.exit_code)


def _command(name: str) -> Any:
    import typer

    module, _, attribute = COMMANDS[name][0].partition(":")
    target = getattr(importlib.import_module(module), attribute)
    if not isinstance(target, typer.Typer):
        app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        app.command(name)(target)
        target = app
    return typer.main.get_command(target)


__all__ = ["COMMANDS", "main"]
