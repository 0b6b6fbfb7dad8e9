"""Declaration of an array field: its dtypes and a legend of its shape."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ArraySpec:
    """`dtypes`: allowed numpy names, separated by spaces. `shape`: legend such as "(N, 3)"; a number in it is checked."""

    dtypes: str
    shape: str
