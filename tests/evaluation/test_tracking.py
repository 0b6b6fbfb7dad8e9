import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perception.cli.main import main
from perception.evaluation.track_frames import TrackFrame, TrackSequence
from perception.evaluation.tracking_clear import clear
from perception.evaluation.tracking_hota import hota
from perception.evaluation.tracking_nuscenes import Scene, Track, evaluate


def scores(capsys: pytest.CaptureFixture[str], rules: str, truth: Path, results: Path) -> dict[str, dict[str, float]]:
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", "tracking", "--rules", rules, "--truth", str(truth), "--results", str(results), "--json"])
    assert ended.value.code == 0
    document: dict[str, dict[str, float]] = json.loads(capsys.readouterr().out)
    return document


def test_clear_numbers_equal_py_motmetrics_on_mot15(data_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = data_folder / "metrics_mot15"
    ours = scores(capsys, "clear", folder, folder)
    for name, numbers in json.loads((folder / "expected.json").read_text())["result"].items():
        for key in set(numbers) - {"num_transfer", "num_ascend", "num_migrate"}:
            assert ours[name][key] == pytest.approx(numbers[key], abs=1e-9), (name, key)


def test_hota_equals_trackeval_on_mot15(data_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Figures: trackeval 1.3.0 (PyPI), HOTA.eval_sequence and combine_sequences on the same boxes and IoU.
    folder = data_folder / "metrics_mot15"
    expected = {
        "HOTA": 0.39995709128847,
        "DetA": 0.39768329124241,
        "AssA": 0.41244952984535,
        "DetRe": 0.4198714608302,
        "DetPr": 0.6551032576291,
        "AssRe": 0.4506646475120,
        "AssPr": 0.6922105014510,
        "LocA": 0.7324802580659,
    }
    assert scores(capsys, "hota", folder, folder)["OVERALL"] == pytest.approx(expected, abs=1e-12)


def test_bdd100k_numbers_equal_scalabel(data_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = data_folder / "metrics_scalabel"
    boxes = folder / "box_track"
    ours = scores(capsys, "scalabel", boxes / "track_sample_anns.json", boxes / "track_predictions.json")
    expected = json.loads((folder / "expected.json").read_text())
    overall = expected["box_track_overall"]
    for key in ("IDF1", "MOTA", "MOTP", "FP", "FN", "IDSw", "MT", "PT", "ML", "FM"):
        assert ours["OVERALL"][key] == pytest.approx(overall[key], abs=2e-6), key
    for key in ("IDF1", "MOTA", "MOTP"):
        assert ours["class_mean"][key] == pytest.approx(overall[f"m{key}"], abs=2e-6), key
    rows = dict(zip(expected["box_track_MOTA_row_names"], expected["box_track_MOTA_rows"], strict=True))
    for name in ("pedestrian", "rider", "car", "truck", "motorcycle", "human", "vehicle", "bike"):
        assert ours[name]["MOTA"] == pytest.approx(rows[name], abs=1e-6), name


def test_amota_equals_the_nuscenes_devkit() -> None:
    document = json.loads((Path(__file__).parent / "nuscenes_tracks.json").read_text())

    def tracks(rows: list[dict[str, object]]) -> list[Track]:
        return [
            Track(str(r["name"]), np.array(r["inst"]), np.array(r["xy"]),
                  np.full(len(np.array(r["inst"])), np.mean(np.array(r.get("score", [1.0])))))
            for r in rows
        ]  # fmt: skip

    scenes = [Scene(np.array(s["ts"]) * 1000, tracks(s["truth"]), tracks(s["res"])) for s in document["scenes"]]
    ours = evaluate(scenes, ["car", "pedestrian"])
    for name, expected in document["expected"].items():
        for key, value in expected.items():
            assert ours[name][key] == pytest.approx(value, abs=1e-6), (name, key)


def frames(*instants: tuple[list[int], list[int], list[list[float]]]) -> TrackSequence:
    return [
        TrackFrame(np.array(t, np.int64), np.array(r, np.int64), np.array(s, float).reshape(len(t), len(r)))
        for t, r, s in instants
    ]


def test_an_object_that_changes_its_track_once_is_one_switch() -> None:
    sequence = frames(([1], [7], [[0.9]]), ([1], [7], [[0.8]]), ([1], [8], [[0.9]]), ([1], [8], [[0.9]]))
    counts = clear([sequence])
    assert (counts.switches, counts.misses, counts.false_positives) == (1, 0, 0)
    assert counts.mota == pytest.approx(0.75)
    assert counts.idf1 == pytest.approx(0.5)  # two of four boxes bear the object's best track
    assert counts.motp == pytest.approx((0.1 + 0.2 + 0.1 + 0.1) / 4)


def test_a_known_track_is_kept_although_another_is_nearer() -> None:
    sequence = frames(([1], [7], [[0.9]]), ([1], [7, 8], [[0.5, 0.99]]))
    assert clear([sequence]).switches == 0


def test_a_gap_is_a_fragmentation_and_a_late_start_is_not() -> None:
    sequence = frames(([1], [], []), ([1], [7], [[1]]), ([1], [], []), ([1], [7], [[1]]))
    assert clear([sequence]).fragmentations == 1


def test_hota_of_half_the_detections_found_by_one_track() -> None:
    sequence = frames(([1], [7], [[1.0]]), ([1], [], []))
    # DetA = 1 / 2; the one match has association 1 / (2 + 1 - 1) = 1 / 2; HOTA = sqrt(1/2 * 1/2).
    assert hota([sequence]).summary()["HOTA"] == pytest.approx(0.5)


@given(st.permutations([0, 1, 2, 3]), st.integers(1, 9))
def test_names_of_tracks_do_not_matter(order: list[int], shift: int) -> None:
    similarity = np.random.default_rng(0).uniform(0, 1, (6, 3, 4))
    there = np.array([5, 6, 7])
    plain = [TrackFrame(there, np.arange(4), s) for s in similarity]
    renamed = [TrackFrame(there + shift, np.array(order) * 10 + shift, s) for s in similarity]
    assert hota([plain]).summary() == pytest.approx(hota([renamed]).summary())


def test_wrong_files_cost_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "gt.txt").write_text("1,1,0,0,10,10,1\n")
    (tmp_path / "twice.txt").write_text("1,1,0,0,10,10,1\n1,1,5,5,10,10,1\n")
    (tmp_path / "words.txt").write_text("one,two\n")
    for results, complaint in (
        ("none.txt", "there is no such"),
        ("twice.txt", "comes 2 times"),
        ("words.txt", "words.txt:1"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["evaluate", "tracking", "--truth", str(tmp_path / "gt.txt"), "--results", str(tmp_path / results)])
        assert ended.value.code == 2
        assert complaint in capsys.readouterr().err
