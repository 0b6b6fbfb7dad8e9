"""What is compiled is found again by the next process.

Numba finds stored code by what a closure holds. A compiled function in it is another in every process: such code is
compiled anew at every start, seconds each, and one more file of it is kept each time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from perception.ops import host_attention, host_convolution, host_sampling


@pytest.mark.parametrize("make", [host_attention._attention, host_convolution._convolution, host_sampling._sampling])
def test_closures_of_compiled_code_hold_numbers_alone(make: Callable[[int], Any]) -> None:
    cells = make(16).py_func.__closure__
    assert cells
    assert all(type(cell.cell_contents) is int for cell in cells)
