"""At least 95 % of a network's multiply-adds lie in parts that an engine can hold."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from perception.engines.coverage import macs_of_case
from perception.networks.parity.case import read_case
from perception.networks.parity.verify import find_cases

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.mark.parametrize("path", find_cases([GOLDEN]), ids=lambda path: str(path.stem))
def test_nearly_all_multiply_adds_are_in_exported_parts(path: Path) -> None:
    case = read_case(path)
    if importlib.util.find_spec(f"perception.networks.parity.{case.model}") is None:
        pytest.skip(f"{case.model} is not in this tree yet")
    assert macs_of_case(case).share >= 0.95
