"""Inputs of a part as a log brings them, kept for the engines of this machine.

Made-up inputs show whether an engine computes the same function; only real ones show how far it is off in use, and the
ranges of int8 are those of its samples. A file is named by the part and by the hash of what it holds, which is a part
of an engine's key: other samples make another engine.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from perception.engines.engine import check_inputs
from perception.engines.log_shapes import part_key
from perception.errors import EngineError, ShapeError
from perception.messages.array import Array, host
from perception.networks.part import Part

MOST_SAMPLES = 8
MOST_BYTES = 64 << 20


class SampleKeeper:
    """Some of the inputs of a part, evenly over all that it is shown, however many those will be."""

    def __init__(self, most: int = MOST_SAMPLES, most_bytes: int = MOST_BYTES) -> None:
        self.kept: list[dict[str, NDArray[Any]]] = []
        self._most, self._most_bytes = most, most_bytes
        self._shown, self._every = 0, 1

    def show(self, inputs: Mapping[str, Array]) -> None:
        """Keep a copy of every so many inputs; where they become too many, every second goes."""
        if self._shown % self._every == 0:
            self.kept.append({name: np.array(host(array)) for name, array in inputs.items()})
            while len(self.kept) > 1 and (len(self.kept) > self._most or self._bytes() > self._most_bytes):
                self.kept = self.kept[::2]
                self._every *= 2
        self._shown += 1

    def forget(self) -> None:
        """Begin again."""
        self.kept.clear()
        self._shown, self._every = 0, 1

    def _bytes(self) -> int:
        return sum(array.nbytes for sample in self.kept for array in sample.values())


def store_samples(folder: Path, part: Part, samples: SampleKeeper | None) -> None:
    """Keep samples for the engines of `part` in an engine cache's folder, instead of what was kept; None forgets it."""
    for file in _files(folder, part):
        file.unlink(missing_ok=True)
    if samples is None or not samples.kept:
        return
    where = folder / ".samples"
    where.mkdir(parents=True, exist_ok=True)
    partial = where / f".{part_key(part)}-{os.getpid()}.npz"
    arrays = {f"{number}/{name}": array for number, sample in enumerate(samples.kept) for name, array in sample.items()}
    np.savez(partial, allow_pickle=False, **arrays)
    partial.rename(where / f"{part_key(part)}.{_hash(partial)}.npz")


def with_stored_samples(folder: Path, part: Part) -> Part:
    """Return the part with what `store_samples` kept for it, or as it is."""
    files = _files(folder, part)
    if not files:
        return part
    return replace(part, samples=lambda fixed: _read(files[-1], fixed), samples_hash=files[-1].name.split(".")[1])


def _read(file: Path, part: Part) -> list[tuple[Tensor, ...]]:
    """Return the samples that fit the part's axes, which may have been fixed since.

    Raises:
        EngineError: the file is damaged.
    """
    try:
        whole = _hash(file) == file.name.split(".")[1]
    except OSError:
        whole = False
    if not whole:
        raise EngineError(f"{file} is damaged; build with --shapes from-log LOG again, or --shapes auto to forget it")
    found = []
    with np.load(file, allow_pickle=False) as stored:
        for number in range(len(stored.files) // len(part.inputs)):
            sample = {name: stored[f"{number}/{name}"] for name in part.inputs}
            try:
                check_inputs(part.inputs, sample)
            except ShapeError:
                continue
            found.append(tuple(torch.from_numpy(sample[name]) for name in part.inputs))
    return found


def _files(folder: Path, part: Part) -> list[Path]:
    return sorted((folder / ".samples").glob(f"{part_key(part)}.*.npz"))


def _hash(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()[:32]


__all__ = ["SampleKeeper", "store_samples", "with_stored_samples"]
