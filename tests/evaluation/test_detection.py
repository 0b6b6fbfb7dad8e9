import json
from pathlib import Path

import numpy as np
import pytest

from perception.cli.main import main
from perception.evaluation.detection_kitti import evaluate as evaluate_kitti
from perception.evaluation.detection_nuscenes import SceneBoxes, evaluate
from perception.evaluation.nuscenes_boxes import read_nuscenes_boxes
from perception.geometry.kitti_labels import KittiFrame, frame_of, read_pairs


def boxes(*rows: tuple[int, str, float, float, float]) -> SceneBoxes:
    """Boxes of (sample, class, x, y, score), 4 m long, at rest."""
    count = len(rows)
    center = np.array([(x, y, 0.0) for _, _, x, y, _ in rows]).reshape(-1, 3)
    return SceneBoxes(
        np.array([row[0] for row in rows], np.int64), np.array([row[1] for row in rows], np.str_), center,
        np.tile([4.0, 2.0, 1.5], (count, 1)), np.zeros(count), np.zeros((count, 2)), np.array([row[4] for row in rows]),
        np.full(count, "", np.str_), np.linalg.norm(center[:, :2], axis=1),
    )  # fmt: skip


def test_nuscenes_scores_equal_the_official_code_on_real_detections(
    data_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = data_folder / "metrics_nuscenes_det"
    expected = json.loads((folder / "expected.json").read_text())
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", "detection", "--rules", "nuscenes", "--json",
              "--truth", str(folder / "gt.json"), "--results", str(folder / "pred.json")])  # fmt: skip
    assert ended.value.code == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["mAP"] == pytest.approx(expected["mAP_over_3_classes"], abs=1e-12)
    for name, by_distance in expected["AP"].items():
        for distance, ap in by_distance.items():
            assert scores["AP"][name][distance] == pytest.approx(ap, abs=1e-12)
        for error, value in expected["TP"][name].items():
            assert scores["TP"][name][error] == pytest.approx(value, abs=1e-9)
    assert (scores["n_gt"], scores["n_pred"], scores["n_samples"]) == (714, 1135, 184)
    bands = scores["by_distance"]
    assert sum(of["boxes"] for of in bands.values()) == 714
    assert 0 < scores["calibration_error"] < 1
    assert bands["0 to 20 m"]["recall"] > bands["35 to 50 m"]["recall"]  # as of every LiDAR


def test_perfect_boxes_score_one_and_no_boxes_score_nothing() -> None:
    truth = boxes((0, "car", 10, 0, 0), (0, "car", 20, 5, 0), (1, "car", 15, 0, 0))
    perfect = evaluate(truth, boxes((0, "car", 10, 0, 0.9), (0, "car", 20, 5, 0.8), (1, "car", 15, 0, 0.7)), ["car"])
    assert perfect.mean_ap == pytest.approx(1.0)
    assert perfect.mean_errors["trans_err"] == 0.0
    assert evaluate(truth, boxes(), ["car"]).nds == 0.0


def test_a_false_box_above_all_others_halves_the_precision_at_first() -> None:
    truth = boxes((0, "car", 10, 0, 0))
    scores = evaluate(truth, boxes((0, "car", 30, 0, 0.9), (0, "car", 10, 0, 0.8)), ["car"])
    # Precision is 0.5 at recall 1, and 0 -> 0.5 linearly before: the mean of max(0, p - 0.1) / 0.9 beyond recall 0.1.
    recall = np.linspace(0, 1, 101)[11:]
    assert scores.class_ap["car"] == pytest.approx(float(np.clip(0.5 * recall - 0.1, 0, None).mean() / 0.9))


def test_boxes_beyond_the_range_of_their_class_do_not_count() -> None:
    truth = boxes((0, "car", 49, 0, 0), (0, "car", 51, 0, 0))
    scores = evaluate(truth, boxes((0, "car", 49, 0, 0.9), (0, "car", 51.5, 0, 0.9)), ["car"])
    assert (scores.num_truth, scores.num_results) == (1, 1)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "is not JSON"),
        ("[1, 2]", "expected an object of lists of boxes"),
        ('{"a": [{"translation": [0, 0, 0]}]}', "KeyError: 'size'"),
        ('{"b": []}', "samples that the truth has not"),
    ],
)
def test_a_damaged_result_file_costs_one_clear_line(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(Exception, match=complaint):
        read_nuscenes_boxes(tmp_path / "r.json", truth=False, samples=["a"])


def kitti_tracking_frames(data_folder: Path) -> list[tuple[KittiFrame, KittiFrame]]:
    """Real labels and PointRCNN detections of three sequences, frame by frame."""
    folder, names = data_folder / "kitti_tracking_3d", {1: "Pedestrian", 2: "Car", 3: "Cyclist"}
    frames = []
    for sequence in ("0012", "0014", "0018"):
        labels = [line.split() for line in (folder / "label" / f"{sequence}.txt").read_text().splitlines()]
        files = [
            folder / "detection" / f"pointrcnn_{name}" / f"{sequence}.txt" for name in ("Car", "Pedestrian", "Cyclist")
        ]
        rows = np.array([[float(v) for v in row.split(",")] for file in files for row in file.read_text().split()])
        for frame in sorted({int(label[0]) for label in labels}):
            there = [label for label in labels if int(label[0]) == frame]
            given = rows[rows[:, 0] == frame]
            score = 1 / (1 + np.exp(-given[:, 6:7]))
            columns = np.hstack((np.zeros((len(given), 2)), given[:, 14:15], given[:, 2:6], given[:, 7:14], score))
            table = np.array([[float(v) for v in label[3:17]] for label in there])
            frames.append(
                (
                    frame_of([label[2] for label in there], table),
                    frame_of([names[int(n)] for n in given[:, 1]], columns),
                )
            )
    return frames


def test_kitti_scores_equal_the_public_evaluation_on_real_detections(data_folder: Path) -> None:
    # Figures: traveller59/kitti-object-eval-python (MIT) on these frames, its GPU overlap replaced by an exact one.
    frames = kitti_tracking_frames(data_folder)
    expected = {
        ("car", "image"): (96.948676, 93.969610, 91.666783), ("car", "bev"): (94.902486, 91.686030, 89.075484),
        ("car", "3d"): (94.561147, 88.548709, 85.691712), ("pedestrian", "image"): (52.136953, 31.715650, 30.281701),
        ("pedestrian", "bev"): (69.493572, 49.226326, 47.553568),
        ("pedestrian", "3d"): (63.954721, 45.771989, 43.802792),
        ("cyclist", "3d"): (77.424242, 92.435897, 92.435897),
    }  # fmt: skip
    for (name, measure), ap in expected.items():
        scores = evaluate_kitti(frames, name, measure)  # type: ignore[arg-type]
        np.testing.assert_allclose(list(scores.ap.values()), ap, atol=1e-6)
    aos = evaluate_kitti(frames, "car", "image").aos
    np.testing.assert_allclose(list(aos.values()), (96.9436, 93.9637, 91.6603), atol=1e-4)


def test_kitti_folders_are_paired_by_file_name(tmp_path: Path) -> None:
    line = "Car 0.00 0 0 100 100 200 160 1.5 1.6 4 0 1.6 20 0"
    for folder in ("truth", "results"):
        (tmp_path / folder).mkdir()
    (tmp_path / "truth" / "000000.txt").write_text(line + "\n")
    (tmp_path / "truth" / "000001.txt").write_text(line + "\n")
    (tmp_path / "results" / "000000.txt").write_text(line + " 0.9\n")
    assert [len(given) for _, given in read_pairs(tmp_path / "truth", tmp_path / "results")] == [1, 0]
    (tmp_path / "results" / "000001.txt").write_text(line + " 0.8\n")
    frames = read_pairs(tmp_path / "truth", tmp_path / "results")
    # The benchmark reads precision at one score per true positive: two cars fill two of 41 recalls, the first unread.
    assert evaluate_kitti(frames, "car", "3d").ap["easy"] == pytest.approx(100 / 40)
    (tmp_path / "results" / "000001.txt").write_text(line + "\n")
    with pytest.raises(Exception, match="15 columns; expected 16, those of KITTI labels and a score"):
        read_pairs(tmp_path / "truth", tmp_path / "results")
