"""Every network computes what its published implementation computes.

The full cases run where PERCEPTION_DATA names the folder that holds golden/; those of tests/golden, smaller copies,
where their full ones are not.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

from perception.networks.parity.case import read_case
from perception.networks.parity.judge import REQUIRED
from perception.networks.parity.verify import find_cases, verify_case

OWN = Path(__file__).parents[1] / "golden"
DATA = os.environ.get("PERCEPTION_DATA")
PUBLISHED = find_cases([Path(DATA) / "golden"]) if DATA else []
NAMES = {(case.parent.name, case.name) for case in PUBLISHED}
SMALL = [case for case in find_cases([OWN]) if (case.parent.name, case.name) not in NAMES]


def passes(case: Path) -> None:
    read = read_case(case)
    if importlib.util.find_spec(f"perception.networks.parity.{read.model}") is None:
        pytest.skip(f"{read.model} is not in this tree yet")
    verdict, _ = verify_case(read)
    failed = [
        f"{row.name}: {row.worst:.3g} of the tolerance" for row in verdict.rows if row.required and not row.passed
    ]
    assert verdict.passed, verdict.error or "; ".join(failed)


@pytest.mark.parametrize("case", SMALL, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_network_passes_its_small_case(case: Path) -> None:
    passes(case)


@pytest.mark.parametrize(
    "case", PUBLISHED or sorted(REQUIRED), ids=lambda case: f"{case.parent.name}-{case.stem}" if DATA else str(case)
)
def test_a_network_passes_its_published_cases(case: Path) -> None:
    if not DATA:
        pytest.skip("PERCEPTION_DATA is not set: the full parity cases are not here")
    passes(case)
