"""`perception verify`: a line a case, a count at the end, and one clear line for bad input."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perception.cli.main import main
from perception.networks.parity.case import read_case
from perception.networks.parity.judge import judge, passes

SMALL = Path(__file__).parents[1] / "golden" / "ddrnet" / "ddrnet_23_slim_oddgrid_b2.json"


def verify(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["verify", *map(str, arguments)])
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.fixture
def case(tmp_path: Path) -> Path:
    shutil.copy(SMALL, tmp_path / "small.json")
    shutil.copy(SMALL.with_suffix(".npz"), tmp_path / "small.npz")
    return tmp_path / "small.json"


def change_notes(case: Path, change: Callable[[dict[str, Any]], object]) -> None:
    notes = json.loads(case.read_text())
    change(notes)
    case.write_text(json.dumps(notes))


def change_arrays(case: Path, change: Callable[[dict[str, Any]], object]) -> None:
    with np.load(case.with_suffix(".npz")) as stored:
        arrays = dict(stored)
    change(arrays)
    np.savez(case.with_suffix(".npz"), allow_pickle=False, **arrays)


def test_a_case_that_agrees_passes_and_its_outputs_are_saved(case: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved = case.parent / "new" / "ours.npz"
    assert verify(case.parent, "--save", saved) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("passed  small: 0.")
    assert lines[-1] == "1 passed, 0 failed"
    read = read_case(case)
    with np.load(saved) as ours:
        assert passes(judge(read.model, read.notes, read.expected, dict(ours)))


def test_a_case_that_disagrees_fails_by_name(case: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change_arrays(case, lambda arrays: arrays.update(out_logits=arrays["out_logits"] + 0.1))
    assert verify(case) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("FAILED  small: ")
    assert "out_logits" in lines[0]
    assert lines[-1] == "0 passed, 1 failed"


def test_inputs_alone_are_run_and_saved_and_nothing_is_claimed(case: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = read_case(case).expected
    change_arrays(case, lambda arrays: [arrays.pop(name) for name in expected])
    assert verify(case, "--save", case.parent / "ours.npz") == 0
    lines = capsys.readouterr().out.splitlines()
    assert "nothing was compared" in lines[0]
    assert lines[-1] == "0 passed, 0 failed"
    with np.load(case.parent / "ours.npz") as ours:
        assert {name: array.shape for name, array in ours.items()} == {
            name: array.shape for name, array in expected.items()
        }


def test_json_output_is_one_object(case: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify(case, "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["summary"] == "1 passed, 0 failed"
    assert {row["name"] for row in printed["cases"][0]["outputs"]} == {"out_logits", "out_pred"}


def test_a_compiled_engine_is_judged_by_the_same_cases(
    case: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PERCEPTION_CACHE", str(tmp_path / "cache"))
    assert verify(case, "--engine", "onnxruntime") == 0
    assert capsys.readouterr().out.startswith("passed  small: 0.")
    (manifest,) = (tmp_path / "cache" / "engines").glob("*/manifest.json")  # it was one that ran
    assert json.loads(manifest.read_text())["made_of"]["engine"] == "onnxruntime"
    change_arrays(case, lambda arrays: arrays.update(out_logits=arrays["out_logits"] + 0.1))
    assert verify(case, "--engine", "onnxruntime") == 1


def test_weights_that_do_not_fit_fail_the_case_with_their_names(case: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change_notes(case, lambda notes: notes["params"].append(["model.surprise", [3]]))
    assert verify(case) == 1
    assert "1 unexpected (surprise)" in capsys.readouterr().out


def test_an_override_changes_the_outcome(case: Path) -> None:
    change_notes(case, lambda notes: notes["overrides"].update({"model.final_layer.conv2.bias": {"add": 1.0}}))
    assert verify(case) == 1


@pytest.mark.parametrize(
    ("break_it", "says"),
    [
        (lambda case: case.unlink(), "no such file"),
        (lambda case: case.write_text("{"), "not a parity case"),
        (lambda case: case.write_text("[]"), "no 'model' key"),
        (lambda case: case.with_suffix(".npz").unlink(), "not a parity case"),
        (lambda case: case.with_suffix(".npz").write_bytes(b""), "not a parity case"),
        (lambda case: case.with_suffix(".npz").write_bytes(b"PK\x03\x04"), "not a parity case"),
        (lambda case: change_notes(case, lambda notes: notes.update(model="ddrnett")), "Did you mean 'ddrnet'"),
        (lambda case: change_notes(case, lambda notes: notes["config"].pop("planes")), "planes"),
        (lambda case: change_notes(case, lambda notes: notes.pop("config")), "config"),
        (lambda case: change_notes(case, lambda notes: notes.update(params=[["a"]])), "params"),
        (lambda case: change_notes(case, lambda notes: notes.update(strip_prefix="net.")), "strip_prefix"),
        (lambda case: change_arrays(case, lambda arrays: arrays.pop("in_image")), "no array 'in_image'"),
    ],
    ids=[
        "missing", "broken json", "no table", "no npz", "empty npz", "cut npz", "unknown network", "no planes",
        "no config", "params", "prefix", "no input",
    ],
)  # fmt: skip
def test_bad_input_is_one_clear_line_and_exit_code_2(
    case: Path, capsys: pytest.CaptureFixture[str], break_it: Callable[[Path], object], says: str
) -> None:
    break_it(case)
    assert verify(case) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def test_an_empty_folder_and_one_file_for_two_cases_are_refused(
    case: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    assert verify(tmp_path / "empty") == 2
    assert "no parity case in this folder" in capsys.readouterr().err
    assert verify(case, case, "--save", tmp_path / "ours.npz") == 2
    assert "one file for 2 cases" in capsys.readouterr().err
