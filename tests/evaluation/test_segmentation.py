"""Segmentation scores: a count by hand, the numbers of another project, and a loop over pixels."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from perception.cli.main import main
from perception.errors import ShapeError
from perception.evaluation.segmentation import Confusion


def test_a_count_by_hand() -> None:
    # Two pictures of 2 x 3, three classes; 255 has no class.
    #   truth      0 0 1      1 2 255        predicted      0 1 1      1 0 2
    #              0 1 1      2 2 255                       0 1 0      2 255 0
    # class 0: true 3 (hit 2); predicted 4 where there is a truth (0,0 / 1,0 / 1,2 / second 0,1) -> 2 / (3 + 4 - 2)
    # class 1: true 4 (hit 3); predicted 4 -> 3 / (4 + 4 - 3)      class 2: true 3 (hit 1); predicted 1 -> 1 / 3
    counts = Confusion(3)
    counts.add(np.array([[0, 0, 1], [0, 1, 1]]), np.array([[0, 1, 1], [0, 1, 0]]))
    counts.add(np.array([[1, 2, 255], [2, 2, 255]]), np.array([[1, 0, 2], [2, 255, 0]]))
    scores = counts.scores()
    np.testing.assert_allclose(scores.iou, [2 / 5, 3 / 5, 1 / 3])
    np.testing.assert_allclose(scores.accuracy, [2 / 3, 3 / 4, 1 / 3])
    np.testing.assert_allclose(scores.precision, [2 / 4, 3 / 4, 1])
    assert scores.mean_iou == pytest.approx((2 / 5 + 3 / 5 + 1 / 3) / 3)
    assert scores.pixel_accuracy == pytest.approx(6 / 10)
    assert scores.frequency_weighted_iou == pytest.approx((3 * 2 / 5 + 4 * 3 / 5 + 3 * 1 / 3) / 10)
    assert scores.pixels == 10


def test_a_class_that_is_nowhere_is_left_out_and_one_that_is_only_predicted_counts_as_zero() -> None:
    counts = Confusion(3)
    counts.add(np.array([[0, 0]]), np.array([[0, 1]]))
    scores = counts.scores()
    assert scores.iou[0] == 0.5
    assert scores.iou[1] == 0
    assert math.isnan(scores.iou[2])
    assert scores.mean_iou == 0.25


@given(st.lists(st.tuples(st.sampled_from([0, 1, 2, 255]), st.sampled_from([0, 1, 2, 255])), min_size=1, max_size=40))
def test_scores_equal_a_loop_over_pixels_by_the_definition(pairs: list[tuple[int, int]]) -> None:
    truth, predicted = np.array(pairs).T
    counts = Confusion(3)
    counts.add(truth, predicted)
    for label in range(3):
        hit = sum(t == label == p for t, p in pairs)
        false = sum(p == label and t not in (label, 255) for t, p in pairs)
        missed = sum(t == label != p for t, p in pairs)
        union = hit + false + missed
        expected = hit / union if union else math.nan
        assert counts.scores().iou[label] == pytest.approx(expected, nan_ok=True)


def test_other_labels_and_sizes_are_refused() -> None:
    with pytest.raises(ShapeError, match="label 3"):
        Confusion(3).add(np.array([[3]]), np.array([[0]]))
    with pytest.raises(ShapeError, match="one size"):
        Confusion(3).add(np.zeros((2, 2), int), np.zeros((2, 3), int))


@pytest.mark.parametrize(("predictions", "perfect"), [("sem_seg_preds.json", False), ("sem_seg_sample.json", True)])
def test_scores_equal_those_that_scalabel_asserts(
    data_folder: Path, predictions: str, perfect: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = data_folder / "metrics_scalabel"
    expected = json.loads((folder / "expected.json").read_text())["sem_seg"]
    files = ("--truth", folder / "sem_seg" / "sem_seg_sample.json", "--results", folder / "sem_seg" / predictions)
    assert run("--rules", "scalabel", *files, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert {name: found[name] for name in expected} == pytest.approx(
        dict.fromkeys(expected, 100.0) if perfect else expected, abs=1e-6
    )


def test_predictions_of_nothing_score_zero(data_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = data_folder / "metrics_scalabel" / "sem_seg"
    files = ("--truth", folder / "sem_seg_sample.json", "--results", folder / "sem_seg_preds_empty.json")
    assert run("--rules", "scalabel", *files, "--json") == 0
    assert json.loads(capsys.readouterr().out)["mIoU"] == 0


def run(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", "segmentation", *map(str, arguments)])
    return int(ended.value.code or 0)


def drawn(folder: Path, **pictures: list[list[int]]) -> Path:
    """Write pictures of labels, each below a folder of its city."""
    for name, labels in pictures.items():
        (folder / "ulm").mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.array(labels, np.uint8)).save(folder / "ulm" / f"{name}.png")
    return folder


def test_folders_of_pictures_are_scored_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # The count by hand above, as files; 9 has no class here.
    truth = drawn(tmp_path / "truth", a=[[0, 0, 1], [0, 1, 1]], b=[[1, 2, 9], [2, 2, 9]])
    ours = drawn(tmp_path / "ours", a=[[0, 1, 1], [0, 1, 0]], b=[[1, 0, 2], [2, 255, 0]], unused=[[0]])
    arguments = ("--truth", truth, "--results", ours, "--classes", "road, car, sky", "--ignore", "9")
    assert run(*arguments, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["IoU"] == pytest.approx({"road": 2 / 5, "car": 3 / 5, "sky": 1 / 3})
    assert found["pixel_accuracy"] == pytest.approx(6 / 10)
    assert found["confusion"]["sky"] == {"road": 1, "sky": 1, "none": 1}
    assert found["n_frames"] == 2


def test_masks_that_do_not_go_together_are_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth = drawn(tmp_path / "truth", a=[[0, 1]])
    for results, said in (
        (drawn(tmp_path / "none", b=[[0, 1]]), "lacks 1 pictures of the truth, the first ulm/a.png"),
        (drawn(tmp_path / "size", a=[[0, 1, 1]]), "the truth has (1, 2)"),
        (drawn(tmp_path / "label", a=[[0, 77]]), "label 77"),
    ):
        assert run("--truth", truth, "--results", results) == 2
        assert said in capsys.readouterr().err
    (tmp_path / "label" / "ulm" / "a.png").write_bytes(b"no picture")
    assert run("--truth", truth, "--results", tmp_path / "label") == 2
    (tmp_path / "a.json").write_text(
        json.dumps([{"name": "a", "labels": [{"category": "car", "rle": {"counts": "04", "size": [9, 9]}}]}])
    )
    assert run("--rules", "scalabel", "--truth", tmp_path / "a.json", "--results", tmp_path / "a.json") == 2
    assert "runs over 4 pixels in a picture of 9 x 9" in capsys.readouterr().err
