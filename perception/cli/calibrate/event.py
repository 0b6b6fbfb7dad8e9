"""`perception calibrate event`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perception.cli.calibrate.board import BOARD_HELP
from perception.cli.calibrate.inputs import Picture, messages
from perception.cli.calibrate.intrinsics import MODEL_HELP, find_boards, finish, known_model

if TYPE_CHECKING:
    from perception.calibrate.event_frames import Mode


def event(
    source: Annotated[str, typer.Argument(help="A log or file of events, or the endpoint of a running graph.")],
    topic: Annotated[str, typer.Option(help="The topic of the events.")],
    board: Annotated[str, typer.Option(help=BOARD_HELP)],
    out: Annotated[Path, typer.Option(help="The calibration file to write.")],
    mode: Annotated[
        str, typer.Option(help="accumulate (a blinking board) or reconstruct (a moving one).")
    ] = "accumulate",
    window_ms: Annotated[float, typer.Option(min=0.1, help="Time of one picture; of a blink, half its period.")] = 20.0,
    model: Annotated[str, typer.Option(help=MODEL_HELP)] = "plumb_bob",
    serial: Annotated[str, typer.Option(help="Serial number of the camera, kept with its numbers.")] = "",
    seconds: Annotated[float, typer.Option(min=1, help="How long to listen to a running graph.")] = 30.0,
    report: Annotated[Path | None, typer.Option(help="The HTML report; by default beside the file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Calibrate an event camera: perception calibrate event events.raw --topic events --board ... --out event.yaml.

    A board that blinks on a screen gives the sharpest pictures; a printed one must move all the time.
    """
    from perception.calibrate.boards import Board
    from perception.errors import UserError

    parsed = Board.parse(board)
    known_model(model)
    if mode not in ("accumulate", "reconstruct"):
        raise UserError(f"--mode {mode}: expected accumulate or reconstruct")
    found = find_boards(parsed, _pictures(source, topic, mode, window_ms, seconds))  # type: ignore[arg-type]
    if not found.given:
        raise UserError(f"{source}: the events on '{topic}' span less than one window of {window_ms:g} ms")
    method = f"least squares on corners of a {parsed.kind} in pictures of events ({mode}, {window_ms:g} ms)"
    finish(
        found, parsed, model, source, serial, out, report or out.with_suffix(".html"), as_json=as_json, method=method
    )


def _pictures(source: str, topic: str, mode: Mode, window_ms: float, seconds: float) -> Iterator[Picture]:
    import numpy as np

    from perception.calibrate.event_frames import EventPacketArrays, event_pictures
    from perception.messages import EventPacket, host

    packets = messages(source, topic, EventPacket, seconds=seconds)
    first = next(packets, None)
    if first is None:
        return

    def arrays() -> Iterator[EventPacketArrays]:
        for packet in (first, *packets):
            yield EventPacketArrays(
                host(packet.t_ns), *(host(part).astype(np.int64) for part in (packet.x, packet.y, packet.polarity))
            )

    for t_ns, grey in event_pictures(arrays(), first.width_px, first.height_px, mode, window_ms):
        yield Picture(str(t_ns), t_ns, grey)


__all__ = ["event"]
