"""What is asked of a running replay, and what it answers: JSON between two terminals."""

from __future__ import annotations

from typing import Literal

import msgspec

from perception.errors import UserError

Action = Literal["status", "pause", "resume", "toggle", "step", "seek", "skip", "rate"]


class ReplayRequest(msgspec.Struct, forbid_unknown_fields=True):
    """What a person asks of a replay; JSON in the second frame of a request."""

    action: Action
    value: float = 1.0
    """Frames to `step`; seconds from the log's start to `seek`, from here to `skip`; seconds a second for `rate`."""


class ReplayAnswer(msgspec.Struct):
    """How the replay stands after a request."""

    paused: bool = False
    rate: float = 1.0
    position_s: float | None = None
    """Seconds from the log's start; None where the source has no log."""
    end_s: float | None = None
    error: str = ""
    """Why nothing was done; empty where it was."""


def told(answer: ReplayAnswer) -> str:
    """Return how a replay stands, for a person."""
    pace = "paused" if answer.paused else "running"
    where = "" if answer.position_s is None else f" at {answer.position_s:.3f} of {answer.end_s:.3f} s"
    return f"{pace}{where}, rate {answer.rate:g}"


def request_of(data: bytes) -> ReplayRequest:
    """Read a request.

    Raises:
        UserError: it is none.
    """
    try:
        return msgspec.json.decode(data, type=ReplayRequest)
    except msgspec.MsgspecError as error:
        raise UserError(f"not a request to a replay: {error}") from None


__all__ = ["Action", "ReplayAnswer", "ReplayRequest", "request_of", "told"]
