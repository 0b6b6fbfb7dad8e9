"""The tracker on worlds whose truth is known: by time, out of order, with several detectors, honest about its doubt."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from perception.errors import MessageError, ShapeError
from perception.tracking.motion import STRAIGHT, TURNING, predict, update
from perception.tracking.settings import ClassSettings, Reliability, TrackerSettings
from perception.tracking.tracker import Tracker
from perception.tracking.tracks import DetectionBatch, FieldOfView, Support, probability

MS = 1_000_000
CAR = ClassSettings(coast_s=0.5, forget_s=1.0, show_existence=0.3)
PERSON = ClassSettings(motion="straight", reach_m=3.0, giou_min=-0.7, affinity="mahalanobis")
SETTINGS = TrackerSettings(classes={"car": CAR, "person": PERSON})
Float = NDArray[np.float64]


def seen(
    t_ms: float, xy: object, *, yaw: float = 0.0, score: float = 0.9, source: str = "lidar", label: int = 0,
    velocity: object = None, view: FieldOfView | None = None,
) -> DetectionBatch:  # fmt: skip
    places = np.atleast_2d(np.asarray(xy, np.float64)).reshape(-1, 2)
    count = len(places)
    return DetectionBatch(
        t_ns=round(t_ms * MS), source=source, classes=("car", "person"),
        center_m=np.column_stack((places, np.zeros(count))), size_lwh_m=np.tile([4.0, 1.8, 1.5], (count, 1)),
        yaw_rad=np.full(count, yaw), label=np.full(count, label), score=np.full(count, score),
        velocity_mps=None if velocity is None else np.atleast_2d(np.asarray(velocity, np.float64)), seen=view,
    )  # fmt: skip


def ids(tracker: Tracker) -> list[int]:
    return sorted(tracker.tracks["id"].tolist())


def test_a_car_keeps_its_id_and_its_speed_is_found() -> None:
    tracker = Tracker(SETTINGS)
    for step in range(20):
        tracker.add(seen(100 * step, [step * 1.0, 0.0]))
    (track,) = tracker.tracks
    assert track["id"] == 1
    assert track["mean"][3] == pytest.approx(10.0, abs=0.3)
    later = tracker.tracks_at(2_400 * MS)
    assert later["mean"][0, 0] == pytest.approx(24.0, abs=0.3)
    assert later["cov"][0, 0, 0] > track["cov"][0, 0]


def test_late_detections_are_inserted_at_their_own_time() -> None:
    batches = [seen(50 * step, [step * 0.5, 0.0], source="lidar" if step % 2 else "radar") for step in range(12)]
    in_order, late = Tracker(SETTINGS), Tracker(SETTINGS)
    for batch in batches:
        in_order.add(batch)
    for index in (0, 1, 3, 2, 5, 6, 4, 8, 7, 10, 11, 9):
        late.add(batches[index])
    for name in ("id", "mean", "cov", "existence", "seen_ns", "born_ns", "size"):
        np.testing.assert_allclose(late.tracks[name], in_order.tracks[name], rtol=1e-9, atol=1e-9)


def test_ids_do_not_change_when_what_came_late_gives_birth_before_them() -> None:
    tracker = Tracker(SETTINGS)
    tracker.add(seen(0, [[0.0, 0.0]]))
    tracker.add(seen(100, [[0.0, 0.0], [30.0, 0.0]]))
    before = {round(float(track["mean"][0])): int(track["id"]) for track in tracker.tracks}
    tracker.add(seen(50, [[0.0, 0.0], [60.0, 0.0]], source="radar"))
    after = {round(float(track["mean"][0])): int(track["id"]) for track in tracker.tracks}
    assert after == {**before, 60: 3}


def test_what_comes_later_than_the_history_is_refused_and_changes_nothing() -> None:
    tracker = Tracker(SETTINGS)
    for step in range(30):
        tracker.add(seen(100 * step, [0.0, 0.0]))
    before = tracker.tracks.copy()
    with pytest.raises(MessageError, match="come 1900 ms late; the tracker's history holds 1000 ms"):
        tracker.add(seen(1000, [5.0, 5.0]))
    np.testing.assert_array_equal(tracker.tracks, before)


@pytest.mark.parametrize("period_ms", [10, 50, 100])
def test_tracks_live_by_time_however_often_detectors_speak(period_ms: int) -> None:
    tracker = Tracker(SETTINGS)
    nowhere = FieldOfView(x_m=1e6, range_m=1.0)  # these detectors could not have seen it, so that only time counts
    for t_ms in range(0, 301, period_ms):
        tracker.add(seen(t_ms, [0.0, 0.0]))
    shown, known = 0, 0
    for t_ms in range(300 + period_ms, 2000, period_ms):
        tracker.add(seen(t_ms, [], view=nowhere))
        if tracker.shown(tracker.tracks, t_ms * MS).any():
            shown = t_ms
        if len(tracker.tracks):
            known = t_ms
    assert shown == 300 + 500  # coast_s
    assert known == 300 + 1000  # forget_s


def test_a_detector_that_could_not_see_it_says_nothing_against_it() -> None:
    ahead = FieldOfView(half_angle_rad=0.5)
    blind, watching = Tracker(SETTINGS), Tracker(SETTINGS)
    for tracker in (blind, watching):
        tracker.add(seen(0, [-10.0, 0.0]))
    blind.add(seen(100, [], view=ahead))
    watching.add(seen(100, []))
    assert blind.tracks["existence"][0] > watching.tracks["existence"][0] + 0.5


def test_a_turning_car_is_followed_round_the_bend() -> None:
    tracker, rate, speed = Tracker(SETTINGS), 0.4, 8.0
    for step in range(40):
        yaw = rate * step * 0.1
        place = speed / rate * np.array([np.sin(yaw), 1 - np.cos(yaw)])
        tracker.add(seen(100 * step, place, yaw=yaw))
    (track,) = tracker.tracks
    assert track["id"] == 1
    assert track["mean"][3:] == pytest.approx([speed, rate], abs=0.1)


def test_a_box_turned_around_now_and_then_does_not_turn_the_track() -> None:
    tracker = Tracker(SETTINGS)
    for step in range(20):
        tracker.add(seen(100 * step, [step * 1.0, 0.0], yaw=np.pi if step % 4 == 3 else 0.0))
    assert abs(tracker.tracks["mean"][0, 2]) < 0.1
    assert tracker.tracks["mean"][0, 3] > 5


def test_a_track_that_began_with_its_front_behind_is_turned_by_the_votes() -> None:
    tracker = Tracker(SETTINGS)
    for step in range(20):
        tracker.add(seen(100 * step, [step * 1.0, 0.0], yaw=np.pi if step == 0 else 0.0))
    assert abs(tracker.tracks["mean"][0, 2]) < 0.1
    assert tracker.tracks["mean"][0, 3] == pytest.approx(10.0, abs=0.5)


def test_a_measured_velocity_is_used_at_once() -> None:
    tracker = Tracker(SETTINGS)
    tracker.add(seen(0, [0.0, 0.0], velocity=[10.0, 0.0]))
    assert tracker.tracks["mean"][0, 3] == pytest.approx(10.0, abs=0.3)


def test_two_detectors_at_one_instant_are_one_object_with_two_sources() -> None:
    tracker = Tracker(SETTINGS)
    for step in range(5):
        tracker.add(seen(100 * step, [0.0, 0.0], source="lidar"))
        tracker.add(seen(100 * step, [0.1, 0.0], source="radar"))
    assert ids(tracker) == [1]
    assert tracker.tracks["sources"][0] == 0b11


def test_an_unreliable_detector_is_believed_less() -> None:
    doubt = replace(SETTINGS, reliability={"toy": Reliability(slope=0.3, offset=-1.0, noise=4.0)})
    tracker = Tracker(doubt)
    tracker.add(seen(0, [0.0, 0.0], source="toy"))
    first = float(probability(tracker.tracks["existence"])[0])
    assert first == pytest.approx(1 / (1 + np.exp(-(0.3 * np.log(9) - 1.0))))
    assert tracker.tracks["cov"][0, 0, 0] == pytest.approx(16 * CAR.position_m**2)


def test_classes_of_a_family_are_one_track_whose_class_the_evidence_decides() -> None:
    family = TrackerSettings(classes={"car": CAR, "truck": CAR}, families={"car": "vehicle", "truck": "vehicle"})
    tracker = Tracker(family)
    for step, name in enumerate(("car", "truck", "truck", "truck")):
        tracker.add(replace(seen(100 * step, [0.0, 0.0]), classes=(name,)))
    assert ids(tracker) == [1]
    assert tracker.names[tracker.tracks["label"][0]] == "truck"


def test_people_and_cars_do_not_mix() -> None:
    tracker = Tracker(SETTINGS)
    tracker.add(seen(0, [0.0, 0.0], label=0))
    tracker.add(seen(100, [0.0, 0.0], label=1))
    assert ids(tracker) == [1, 2]


def test_support_from_a_picture_raises_existence_and_survives_an_insertion() -> None:
    tracker = Tracker(SETTINGS)
    tracker.add(seen(0, [0.0, 0.0], score=0.5))
    before = float(tracker.tracks["existence"][0])
    tracker.add(Support(t_ns=50 * MS, source="camera", classes=("car",), ids=np.array([1]), label=np.array([0]),
                        score=np.array([0.9])))  # fmt: skip
    supported = float(tracker.tracks["existence"][0])
    assert supported > before + 1
    tracker.add(seen(25, [0.0, 0.0], score=0.5, source="radar"))
    assert float(tracker.tracks["existence"][0]) > supported
    assert tracker.tracks["sources"][0] == 0b111


def test_boxes_of_nonsense_are_left_out_and_unknown_classes_refused() -> None:
    tracker = Tracker(SETTINGS)
    tracker.add(seen(0, [[np.nan, 0.0], [5.0, 0.0]]))
    assert tracker.tracks["mean"][:, 0].tolist() == [5.0]
    with pytest.raises(ShapeError, match=r"detects 'cart', which the tracker has no settings for.*Did you mean 'car'"):
        tracker.add(replace(seen(100, [0.0, 0.0]), classes=("cart", "person")))
    with pytest.raises(ShapeError, match="labels of lidar go beyond"):
        replace(seen(0, [0.0, 0.0]), label=np.array([7]))


@pytest.mark.parametrize("motion", ["turning", "straight"])
def test_nineteen_of_twenty_truths_lie_within_the_stated_doubt(motion: str) -> None:
    """95 % coverage on truth that moves as the model says: position after 1.5 s, and 0.4 s ahead of the last look."""
    random = np.random.default_rng(5)
    model = TURNING if motion == "turning" else STRAIGHT
    settings = ClassSettings(
        motion="turning" if motion == "turning" else "straight", acceleration_mps2=2.0, turn_radps2=0.5, giou_min=-0.99,
        heading_drift_radps=0.3, position_m=0.3, heading_rad=0.1, speed_mps=8.0, reach_m=8.0,
    )  # fmt: skip
    tracker = Tracker(TrackerSettings(classes={"car": settings, "person": PERSON}, memory_s=1e9))
    count, step_s = 400, 0.1
    truth = np.zeros((count, 5))
    truth[:, 0] = np.arange(count) * 200.0  # far apart: nothing to confuse
    truth[:, 2] = random.uniform(-3, 3, count)
    truth[:, 3:] = random.normal(0, 5, (count, 2)) if motion == "straight" else 0.0
    if motion == "turning":
        truth[:, 3], truth[:, 4] = random.normal(0, 8, count), random.normal(0, 0.2, count)
    for step in range(20):
        if step:
            truth = moved(truth, model, step_s, settings, random)
        if step <= 15:
            measured = truth[:, :3] + random.normal(0, 1, (count, 3)) * (0.3, 0.3, 0.1)
            tracker.add(replace(seen(100 * step, measured[:, :2]), yaw_rad=measured[:, 2]))
        if step in (15, 19):
            tracks = tracker.tracks_at(step * 100 * MS)
            assert len(tracks) == count
            off = tracks["mean"][:, :2] - truth[:, :2]
            squared = np.einsum("ni,nij,nj->n", off, np.linalg.inv(tracks["cov"][:, :2, :2]), off)
            inside = float((squared < 5.991).mean())  # chi-square, two degrees of freedom
            assert 0.92 <= inside <= 0.985, (step, inside)


def moved(truth: Float, model: int, dt: float, settings: ClassSettings, random: np.random.Generator) -> Float:
    """Move truth by the model with noise of its own."""
    after = truth.copy()
    turn = settings.turn_radps2 if model == TURNING else settings.heading_drift_radps
    push = random.normal(0, 1, (len(truth), 2)) * settings.acceleration_mps2
    for mean in after:
        predict(mean, np.zeros((5, 5)), model, 0.0, 0.0, dt, np.empty((5, 5)), np.empty((5, 5)))
    if model == STRAIGHT:
        after[:, :2] += push * dt**2 / 2
        after[:, 3:] += push * dt
        after[:, 2] += random.normal(0, turn, len(truth)) * dt
        return after
    spin = random.normal(0, turn, len(truth))
    heading = np.column_stack((np.cos(after[:, 2]), np.sin(after[:, 2])))
    after[:, :2] += push[:, :1] * dt**2 / 2 * heading
    after[:, 3] += push[:, 0] * dt
    after[:, 2] += spin * dt**2 / 2
    after[:, 4] += spin * dt
    return after


def test_one_measured_place_halves_the_doubt_of_an_equal_one() -> None:
    """Two equally good positions: the mean lies between and the variance is half."""
    mean, cov, measured = np.zeros(5), np.eye(5), np.array([2.0, 0.0, 0.0, np.nan, np.nan])
    agrees = update(mean, cov, STRAIGHT, measured, 1.0, 1.0, 1.0, np.empty(5), np.empty(5))
    assert mean[0] == pytest.approx(1.0)
    assert cov[0, 0] == pytest.approx(0.5)
    assert agrees == 1


@pytest.mark.parametrize("affinity", ["giou", "mahalanobis"])
@pytest.mark.parametrize("matching", ["hungarian", "greedy"])
def test_neighbours_that_pass_each_other_keep_their_ids(affinity: str, matching: str) -> None:
    one = replace(CAR, affinity="giou" if affinity == "giou" else "mahalanobis")
    one = replace(one, matching="hungarian" if matching == "hungarian" else "greedy", mahalanobis_max=6.0)
    tracker = Tracker(TrackerSettings(classes={"car": one, "person": PERSON}))
    for step in range(30):
        tracker.add(seen(100 * step, [[step * 1.0, 0.0], [30.0 - step, 3.0]]))
    assert ids(tracker) == [1, 2]
    assert {int(track["id"]): track["mean"][0] > 15 for track in tracker.tracks} == {1: True, 2: False}


def test_no_track_begins_on_the_ground_of_a_surer_one() -> None:
    for overlap_max, count in ((0.2, 1), (1.0, 2)):
        tracker = Tracker(replace(SETTINGS, overlap_max=overlap_max))
        for step in range(3):
            tracker.add(seen(100 * step, [20.0, 0.0]))
        tracker.add(seen(300, [[20.0, 0.0], [20.0, 0.5]], score=0.8))  # the second is no other car
        assert len(tracker.tracks) == count


def test_beside_a_track_another_begins() -> None:
    tracker = Tracker(replace(SETTINGS, overlap_max=0.2))
    tracker.add(seen(0, [20.0, 0.0]))
    tracker.add(seen(100, [[20.0, 0.0], [20.0, 1.9]], score=0.8))
    assert len(tracker.tracks) == 2


def test_the_detector_that_confuses_classes_less_decides_which_it_is() -> None:
    truck = replace(CAR, reach_m=8.0)
    confusion = {"truck": {"truck": 0.7, "car": 0.3}, "car": {"car": 0.6, "truck": 0.4}}
    settings = TrackerSettings(classes={"car": truck, "person": PERSON, "truck": truck},
                               families={"car": "vehicle", "truck": "vehicle"})  # fmt: skip
    known = replace(settings, reliability={"lidar": Reliability(confusion=confusion)})
    said = []
    for one in (settings, known):
        tracker = Tracker(one)
        for step in range(6):
            lidar = replace(seen(100 * step, [20.0, 0.0], label=1, score=0.97), classes=("person", "truck"))
            tracker.add(lidar)
            tracker.add(seen(100 * step + 20, [20.0, 0.0], source="camera", score=0.9))
        said.append(tracker.names[tracker.tracks["label"][0]])
    assert said == ["truck", "car"]


def test_the_evidence_of_a_sure_detection_is_how_often_each_class_is_called_so() -> None:
    confusion = {"car": {"car": 0.8, "person": 0.2}}
    tracker = Tracker(replace(SETTINGS, reliability={"lidar": Reliability(confusion=confusion)}))
    tracker.add(seen(0, [20.0, 0.0], score=1.0))
    # called a car: 0.8 of cars, and 0.05 of people, of whom nothing else is known
    assert tracker.tracks["evidence"][0] == pytest.approx([0.0, np.log(0.05 / 0.8)], abs=0.01)
