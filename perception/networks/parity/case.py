"""A parity case: inputs and outputs of a published implementation, recorded outside this project.

The format is a pair `<case>.json` and `<case>.npz`: the json holds the configuration, the parameters of the published
checkpoint by name and shape, and notes; the npz holds `in_*` and, unless somebody else judges, `out_*` arrays.
"""

from __future__ import annotations

import ast
import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from torch import nn

from perception.errors import CaseError
from perception.networks.part import Part, RunPart


@dataclass(frozen=True)
class ParityCase:
    """One case, read whole."""

    path: Path
    model: str
    """The network's name, which is also the name of its adapter module: "ddrnet", "dsvt", ..."""
    notes: Mapping[str, Any]
    """The whole json: `config`, `variant`, `params`, `keep`, `overrides`, `strip_prefix`, `subsample`, ..."""
    inputs: Mapping[str, NDArray[Any]]
    """Names start with `in_`, or `keep_` for the values of entries that are not filled."""
    expected: Mapping[str, NDArray[Any]]
    """Names start with `out_`; empty where the case holds inputs only."""

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def config(self) -> Mapping[str, Any]:
        return self.notes["config"]  # type: ignore[no-any-return]


class _Inputs(dict[str, NDArray[Any]]):
    """The stored arrays by name; asking for one that is not there is the case's fault."""

    path: Path

    def __missing__(self, name: str) -> NDArray[Any]:
        raise CaseError(f"{self.path}: no array '{name}'; it holds {', '.join(sorted(self)) or 'nothing'}")


def read_case(path: Path) -> ParityCase:
    """Read `path` (the json) and the npz beside it.

    Raises:
        CaseError: a file is missing or is not what the format says.
    """
    arrays_path = path.with_suffix(".npz")
    try:
        notes = json.loads(path.read_text())
        with arrays_path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except (OSError, ValueError, KeyError, EOFError, AttributeError, BadZipFile, zlib.error) as error:
        raise CaseError(
            f"{path}: not a parity case ({error}); expected <case>.json with <case>.npz beside it"
        ) from error
    if not isinstance(notes, dict) or not isinstance(notes.get("model"), str):
        raise CaseError(f"{path}: no 'model' key; expected the json of a parity case")
    inputs = _Inputs({name: array for name, array in arrays.items() if not name.startswith("out_")})
    inputs.path = arrays_path
    expected = {name: array for name, array in arrays.items() if name.startswith("out_")}
    return ParityCase(path, notes["model"].split("_")[0].lower(), notes, inputs, expected)


def subsampled(case: ParityCase, outputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Take of each full output the slice that the case stores (`subsample`)."""
    slices = case.notes.get("subsample") or {}
    return {name: array[_parse_slices(slices[name])] if name in slices else array for name, array in outputs.items()}


def _parse_slices(text: str) -> tuple[slice | int, ...]:
    """Read numpy slice text such as "[:, :, ::6, ::6]" without evaluating it."""
    parts: list[slice | int] = []
    for item in text.strip().strip("[]").split(","):
        if ":" not in item:
            parts.append(int(ast.literal_eval(item.strip())))
            continue
        numbers = [int(number) if number.strip() else None for number in item.split(":")]
        parts.append(slice(*numbers))
    return tuple(parts)


class ParityAdapter(Protocol):
    """What a module `perception.networks.parity.<model>` offers (as module functions).

    `build` makes the network of the case's configuration, in evaluation mode, weights still to be loaded; its
    `state_dict` has the published names without `strip_prefix`. A case that has no network (a projection, a
    preprocessing step) returns an empty `nn.Module`. `outputs` runs it through `run` and returns arrays under the
    case's output names, full size (the caller applies `subsample`); inner stages may be left out.
    `parts` lists what `run` will be asked for.
    """

    build: Callable[[ParityCase], nn.Module]
    parts: Callable[[ParityCase, nn.Module], Mapping[str, Part]]
    outputs: Callable[[ParityCase, nn.Module, RunPart], dict[str, NDArray[Any]]]
