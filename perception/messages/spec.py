"""Declaration of an array field: its dtypes and a legend of its shape."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ArraySpec:
    """Numpy names of the allowed dtypes, separated by spaces, and legends of the allowed shapes, such as "(N, 3)".

    Numbers are checked; a name stands for one size in all arrays of a message.
    """

    dtypes: str
    shape: str
