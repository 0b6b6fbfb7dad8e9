"""Weights: filled by name, loaded strictly, stored as safetensors.

Weights reach a network in one of three ways: from a safetensors file, from a published checkpoint that
`perception weights import` turned into one, or filled: every tensor drawn from a generator that its own name seeds,
so that two implementations with the same parameter names hold the same numbers. Filled weights prove that a network
computes what the published one computes; they have learned nothing.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from perception.errors import WeightsError
from perception.networks.whole_file import write_whole

_NAMES_SHOWN = 5


def filled_array(name: str, shape: Sequence[int]) -> NDArray[Any]:
    """Return the array that belongs to a parameter's name: float32, int64 for `num_batches_tracked`.

    Matrices and kernels keep the variance of their input, norm scales lie around 1, means and biases around 0.
    `numpy.random.RandomState` is used since its stream is frozen: the numbers are the same on every version.
    """
    shape = tuple(shape)
    leaf = name.rpartition(".")[2]
    if leaf == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    random = np.random.RandomState(zlib.crc32(name.encode()))
    if leaf == "running_var":
        values: Any = random.uniform(0.5, 1.5, shape)
    elif leaf == "running_mean":
        values = 0.1 * random.standard_normal(shape)
    elif len(shape) <= 1 and leaf in ("weight", "gamma"):
        values = random.uniform(0.8, 1.2, shape)
    elif len(shape) <= 1:
        values = 0.02 * random.standard_normal(shape)
    else:
        values = random.standard_normal(shape) / np.sqrt(int(np.prod(shape[1:])))
    return np.asarray(values).astype(np.float32)


def filled_state(
    shapes: Mapping[str, Sequence[int]],
    keep: Collection[str] = (),
    overrides: Mapping[str, Mapping[str, float]] | None = None,
) -> dict[str, Tensor]:
    """Fill every name but those in `keep`, which hold what the architecture fixes, then apply the overrides.

    Args:
        shapes: published name -> shape.
        keep: names to leave out.
        overrides: name -> {"mul": factor} or {"add": term}, applied to the whole tensor.

    Raises:
        WeightsError: an override names an entry that is not filled, or another operation.
    """
    kept = set(keep)
    arrays = {name: filled_array(name, shape) for name, shape in shapes.items() if name not in kept}
    for name, operations in (overrides or {}).items():
        if name not in arrays:
            raise WeightsError(f"override of '{name}', which is not among the filled entries")
        for operation, number in operations.items():
            if operation not in ("mul", "add"):
                raise WeightsError(f"override '{operation}' of '{name}'; expected 'mul' or 'add'")
            changed = arrays[name] * number if operation == "mul" else arrays[name] + number
            arrays[name] = np.asarray(changed, arrays[name].dtype)
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def fill(network: nn.Module, prefix: str = "") -> None:
    """Fill a network's own entries by name (`prefix` is put before each); index tables and counters stay."""
    own = network.state_dict()
    fixed = [name for name, value in own.items() if not value.is_floating_point()]
    state = filled_state({prefix + name: value.shape for name, value in own.items() if name not in fixed})
    load_strictly(
        network,
        {name.removeprefix(prefix): value for name, value in state.items()} | {name: own[name] for name in fixed},
        source="filled weights",
    )


def load_strictly(network: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Copy `state` into `network`; every name and shape must agree.

    Args:
        network: where to.
        state: name -> values; floats of any width are converted.
        source: what the error calls the weights: a path, a case.

    Raises:
        WeightsError: names or shapes differ; the text lists them.
    """
    own = network.state_dict()
    faults = [
        _listed("missing", [name for name in own if name not in state]),
        _listed("unexpected", [name for name in state if name not in own]),
        _listed(
            "of another shape",
            [
                f"{name} {tuple(value.shape)}, expected {tuple(own[name].shape)}"
                for name, value in state.items()
                if name in own and value.shape != own[name].shape
            ],
        ),
    ]
    if any(faults):
        what = "; ".join(fault for fault in faults if fault)
        raise WeightsError(f"{source}: not the weights of this {type(network).__name__}: {what}")
    network.load_state_dict(dict(state), strict=True)


def save_weights(path: Path, state: Mapping[str, Tensor], metadata: Mapping[str, Any] | None = None) -> None:
    """Write a safetensors file, all or nothing; metadata values are stored as JSON. Equal content gives equal bytes."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    data = to_safetensors(tensors, metadata={key: json.dumps(value) for key, value in (metadata or {}).items()})
    try:
        write_whole(path, _with_sorted_header(data))
    except OSError as error:
        raise WeightsError(f"{path}: cannot write the weights ({error.strerror})") from error


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a safetensors file.

    Returns:
        name -> values, and the metadata that `save_weights` stored (a value that is not JSON stays text).

    Raises:
        WeightsError: the file is missing or damaged.
    """
    try:
        with safe_open(path, framework="pt") as stored:
            metadata = {key: _from_json(text) for key, text in (stored.metadata() or {}).items()}
            return {name: stored.get_tensor(name) for name in stored.keys()}, metadata  # noqa: SIM118 (not a mapping)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path}: not a safetensors file ({error})") from error


def _with_sorted_header(data: bytes) -> bytes:
    """Return the file with its header's keys in order: the library writes metadata in another order in each process."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # the format wants the numbers to begin at a multiple of 8
    return len(header).to_bytes(8, "little") + header + data[end:]


def _from_json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _listed(what: str, names: Iterable[str]) -> str:
    found = list(names)
    if not found:
        return ""
    more = f" and {len(found) - _NAMES_SHOWN} more" if len(found) > _NAMES_SHOWN else ""
    return f"{len(found)} {what} ({', '.join(found[:_NAMES_SHOWN])}{more})"
