"""Every error that a user, a file, a sensor or a machine can cause.

    PerceptionError             exit code 1: failed at run time
    |-- UserError               exit code 2: what the user wrote or gave is wrong
    |   |-- LaunchFileError     a launch, rig or calibration file: `file:line: what; expected; did you mean`
    |   |-- WeightsError        weights that are missing, of another network, or not safe to read
    |   |-- LogError            a recorded log that cannot be opened
    |   |-- CaseError           a parity case that cannot be read
    |   `-- NotInstalledError   an optional package that the command needs
    |-- MessageError            bytes that are not a record, or a record of another type
    |-- ShapeError              an array of another shape, type or range than documented
    |-- GeometryError           a transform, camera model or frame that cannot be what it says
    |-- ContractError           input that a model card refuses
    |-- EngineError             an engine that cannot be built, or disagrees with the reference
    |-- ChannelError            shared memory or a socket that cannot be used
    |-- SensorError             a sensor that sends nothing, or nothing usable
    `-- GraphError              a running graph that cannot go on

The library raises them and never prints or exits. A command prints the message and exits with `exit_code`. Inside a
running graph an error out of a node's method is one counted drop, with its text as the reason.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Iterable


class PerceptionError(Exception):
    """Something outside the code went wrong: the text says what, where, what was expected and what to do."""

    exit_code: ClassVar[int] = 1


class UserError(PerceptionError):
    """What the user wrote or gave is wrong."""

    exit_code: ClassVar[int] = 2


class LaunchFileError(UserError):
    """A launch, rig or calibration file has faults; `str()` lists all of them, a line each."""


class WeightsError(UserError):
    """Weights are missing, belong to another network, or are not safe to read."""


class LogError(UserError):
    """A recorded log cannot be opened, or is damaged beyond what can be skipped and counted."""


class CaseError(UserError):
    """A parity case cannot be read."""


class NotInstalledError(UserError):
    """An optional package is needed; the text holds the pip command."""


class MessageError(PerceptionError):
    """Bytes are not a record, or a record is of another type than expected."""


class ShapeError(PerceptionError):
    """An array has another shape, dtype or range than documented."""


class GeometryError(PerceptionError):
    """A transform, camera model or frame cannot be what it says."""


class ContractError(PerceptionError):
    """A sensor message does not meet the input contract of a model card and cannot be adapted to it."""


class EngineError(PerceptionError):
    """An engine cannot be built or run, or disagrees with the torch reference."""


class ChannelError(PerceptionError):
    """Shared memory or a socket cannot be used."""


class SensorError(PerceptionError):
    """A sensor sends nothing, or nothing usable."""


class GraphError(PerceptionError):
    """A running graph cannot go on."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the closest known word, or an empty string."""
    close = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" Did you mean '{close[0]}'?" if close else ""
