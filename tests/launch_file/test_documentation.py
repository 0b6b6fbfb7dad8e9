"""The documents say what the code does: every code and every key stands in docs/."""

from __future__ import annotations

from pathlib import Path

import pytest

from perception.runtime.launch_file import models
from perception.runtime.launch_file.faults import CODES

DOCS = Path(__file__).parents[2] / "docs"
MODELS = (
    models.LaunchFile, models.NodeFile, models.InputFile, models.JoinFile, models.OutputFile, models.SensorHealthFile,
    models.NetworkFile,
)  # fmt: skip


def test_every_fault_has_its_line_and_no_line_is_left_over() -> None:
    lines = [line for line in (DOCS / "checks.md").read_text().splitlines() if line.startswith("| `")]
    assert lines == [f"| `{code}` | {text} |" for code, text in CODES.items()]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_key_of_a_launch_file_is_documented_as_the_code_says(model: type[models.FileModel]) -> None:
    text = (DOCS / "launch_file.md").read_text()
    for name, field in model.model_fields.items():
        assert field.description, name
        assert f"| `{name}` |" in text
        assert " ".join(field.description.split()) in text
