"""Choose what a network's parts run on."""

from __future__ import annotations

from perception.errors import UserError
from perception.networks.parity.verify import RunOn
from perception.networks.part import run_in_torch


def runner(engine: str, precision: str = "fp32") -> RunOn:
    """Return what compiles parts for `engine`."""
    if engine != "torch" or precision != "fp32":
        raise UserError(f"engine '{engine}' at {precision} is not there yet; expected torch at fp32")
    return run_in_torch
