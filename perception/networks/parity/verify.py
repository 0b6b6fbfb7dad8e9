"""Verify networks, or engines compiled from their parts, against parity cases."""

from __future__ import annotations

import fnmatch
import importlib
import importlib.util
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from perception.errors import CaseError, PerceptionError, UserError, did_you_mean
from perception.networks.parity.case import ParityAdapter, ParityCase, subsampled
from perception.networks.parity.judge import REQUIRED, Row, judge, passes
from perception.networks.part import Part, RunPart, run_in_torch
from perception.networks.weights import filled_state, load_strictly

RunOn: TypeAlias = Callable[[Mapping[str, Part]], RunPart]
"""Compiles a network's parts and returns their runner; `run_in_torch` is the reference."""


@dataclass(frozen=True)
class Verdict:
    """What came out of one case."""

    case: str
    passed: bool | None
    """None where the case holds inputs only: it ran, and nothing was compared."""
    rows: list[Row] = field(default_factory=list)
    error: str = ""
    """Why the network could not run the case."""

    @property
    def worst(self) -> Row | None:
        """The row that decides: the required one with the largest error over its tolerance."""
        rows = [row for row in self.rows if row.required]
        return max(rows, key=lambda row: row.worst) if rows else None


def find_cases(paths: Iterable[Path]) -> list[Path]:
    """Return the case files that `paths` name: files as they are, folders searched to any depth, in order.

    Raises:
        CaseError: a path does not exist, or a folder holds no case.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(path.rglob("*.json"))
            if not inside:
                raise CaseError(
                    f"{path}: no parity case in this folder; expected <case>.json with <case>.npz beside it"
                )
            found.extend(inside)
        elif path.is_file():
            found.append(path.with_suffix(".json") if path.suffix == ".npz" else path)
        else:
            raise CaseError(f"{path}: no such file or folder; expected a parity case (<case>.json) or a folder of them")
    return found


def verify_case(case: ParityCase, run_on: RunOn = run_in_torch, half: bool = False) -> tuple[Verdict, dict[str, Any]]:
    """Run one case and judge it.

    Args:
        case: inputs, configuration and, unless somebody else judges, expected outputs.
        run_on: what the network's parts run on.
        half: judge by the class for engines below float32.

    Returns:
        The verdict, and our outputs under the case's names, subsampled as the case stores them.

    Raises:
        CaseError: the case is not what the format says, or names an unknown network.
    """
    adapter = adapter_of(case)
    network = _built(adapter, case)
    try:
        load_filled(network, case)
        with torch.no_grad():
            outputs = subsampled(case, adapter.outputs(case, network, run_on(adapter.parts(case, network))))
    except CaseError:
        raise
    except PerceptionError as error:
        return Verdict(case.name, False, error=str(error)), {}
    if not case.expected:
        return Verdict(case.name, None), outputs
    try:
        rows = judge(case.model, case.notes, case.expected, outputs, half)
    except (ValueError, IndexError) as error:  # boxes of another width than published, for instance
        return Verdict(case.name, False, error=f"our outputs cannot be compared with the published ones: {error}"), {}
    return Verdict(case.name, passes(rows), rows), outputs


def adapter_of(case: ParityCase) -> ParityAdapter:
    """Import the adapter of the case's network.

    Raises:
        CaseError: there is no such network.
    """
    name = f"perception.networks.parity.{case.model}"
    if case.model not in REQUIRED or importlib.util.find_spec(name) is None:
        known = ", ".join(REQUIRED)
        raise CaseError(
            f"{case.path}: unknown network '{case.model}'; known: {known}.{did_you_mean(case.model, REQUIRED)}"
        )
    return cast("ParityAdapter", importlib.import_module(name))


def load_filled(network: nn.Module, case: ParityCase) -> None:
    """Fill the case's parameters by name and load them strictly.

    Kept entries hold what the case says (`keep_values`, `keep_*` arrays), or else what the network itself put there;
    a kept entry that the network does not hold, such as a training counter, is left out.

    Raises:
        CaseError: `params` is not a list of names and shapes, or a name lacks the case's prefix.
        WeightsError: the names or shapes are not the network's.
    """
    notes, shapes = case.notes, _published_shapes(case)
    prefix, keep = notes.get("strip_prefix") or "", set(notes.get("keep") or ())
    if strange := [name for name in shapes if not name.startswith(prefix)]:
        raise CaseError(f"{case.path}: parameter '{strange[0]}' lacks the prefix '{prefix}' that strip_prefix names")
    state = filled_state(shapes, keep, notes.get("overrides"))
    own = network.state_dict()
    for name in keep:
        if (inner := name.removeprefix(prefix)) in own:
            state[name] = _kept_value(case, name, own[inner])
    stripped = {name.removeprefix(prefix): value for name, value in state.items()}
    load_strictly(network, stripped, source=str(case.path))


def save_outputs(path: Path, outputs: Mapping[str, NDArray[Any]]) -> None:
    """Write outputs as an npz that the judge of the cases reads."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **outputs)
    except OSError as error:
        raise UserError(f"{path}: cannot write the outputs ({error.strerror})") from error


def summary(verdicts: Sequence[Verdict]) -> str:
    """Return "N passed, M failed"; cases without expected outputs count as neither."""
    passed = sum(verdict.passed is True for verdict in verdicts)
    return f"{passed} passed, {sum(verdict.passed is False for verdict in verdicts)} failed"


def _published_shapes(case: ParityCase) -> dict[str, tuple[int, ...]]:
    try:
        return {str(name): tuple(int(size) for size in shape) for name, shape in case.notes.get("params") or ()}
    except (TypeError, ValueError) as error:
        raise CaseError(f"{case.path}: 'params' is not a list of [name, shape] ({error})") from error


def _built(adapter: ParityAdapter, case: ParityCase) -> nn.Module:
    _published_shapes(case)  # adapters read variants off the names
    try:
        return adapter.build(case)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise CaseError(
            f"{case.path}: not a configuration of {case.model} ({type(error).__name__}: {error})"
        ) from error


def _kept_value(case: ParityCase, name: str, own: Tensor) -> Tensor:
    stored = case.inputs.get("keep_" + name.rpartition(".")[2])
    values = case.notes.get("keep_values")
    if stored is None and isinstance(values, Mapping):
        stored = next((np.asarray(value) for key, value in values.items() if fnmatch.fnmatchcase(name, key)), None)
    return own if stored is None else torch.from_numpy(np.ascontiguousarray(stored)).to(own.dtype)
