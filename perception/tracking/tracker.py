"""Track objects through the detections of any number of detectors, each at its own rate and delay.

    tracker = Tracker(settings)
    tracker.add(batch)                  one detector's detections of one instant, in the tracker's frame
    tracks = tracker.tracks_at(t_ns)    every track, moved to that instant

A batch that is older than what was taken already is inserted at its own time: the tracks of just before it are taken
from the history, and what came after is taken again. A track keeps the id that it was given. All is by time: how often
detectors speak changes nothing in how long tracks live.

Existence is one number of log-odds per track: a detection adds what its score is worth, a miss of a detector that could
have seen it takes away, and silence lets the odds of what is there fall with time.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perception.errors import MessageError, ShapeError, did_you_mean
from perception.ops.boxes_bev import footprints, surest_apart
from perception.ops.matching import UNMATCHED, match_pairs, match_pairs_greedily
from perception.tracking.association import GIOU, MAHALANOBIS, pairs_of_family
from perception.tracking.class_evidence import add_evidence, class_evidence, said_by_class
from perception.tracking.motion import (
    STRAIGHT,
    TURNING,
    convert,
    drift_alone,
    predict,
    turn_around,
    update,
    update_alone,
)
from perception.tracking.settings import ClassSettings, Reliability, TrackerSettings
from perception.tracking.tracks import (
    MAX_ODDS,
    DetectionBatch,
    Support,
    Tracks,
    boxes_of,
    odds,
    probability,
    some_of,
    track_type,
    within,
)

HEADING_VOTES = 5.0


@dataclass
class _Taken:
    """One batch that was taken, the tracks before it, and the ids that its detections gave birth to."""

    batch: DetectionBatch | Support
    before: Tracks
    before_ns: int | None
    """None where nothing was taken before."""
    ids: NDArray[np.int64]


class Tracker:
    """See the module's text.

    Args:
        settings: classes and how they move.
        new_id: gives ids to new tracks.
    """

    def __init__(self, settings: TrackerSettings, new_id: Callable[[], int] | None = None) -> None:
        self.settings = settings
        self.names = tuple(settings.classes)
        self.t_ns: int | None = None
        self.tracks: Tracks = np.zeros(0, track_type(len(self.names)))
        self.sources: list[str] = []
        self._per_class = [settings.classes[name] for name in self.names]
        families = [settings.families.get(name, name) for name in self.names]
        self._family_names = list(dict.fromkeys(families))
        self._family = np.array([self._family_names.index(family) for family in families], np.int64)
        self._number = {name: number for number, name in enumerate(self.names)}
        self._numbers = {name: self._column(name) for name in _NUMBERS}
        self._spread = np.column_stack([self._numbers[name] for name in ("position_m", "heading_rad", "velocity_mps")])
        self._shown_odds = odds(self._numbers["show_existence"])
        self._least_odds = odds(np.array(settings.existence_min))
        self.motion_models = np.array(
            [TURNING if c.motion == "turning" else STRAIGHT for c in self._per_class], np.int64
        )
        self.process_noise = np.array(
            [(c.acceleration_mps2, c.turn_radps2 if c.motion == "turning" else c.heading_drift_radps)
             for c in self._per_class]
        )  # fmt: skip
        self._said: dict[str, NDArray[np.float64]] = {}
        self._history: deque[_Taken] = deque()
        self._last_id = 0
        self._new_id = new_id or self._count_up

    def _column(self, name: str) -> NDArray[np.float64]:
        return np.array([getattr(settings, name) for settings in self._per_class], np.float64)

    def _count_up(self) -> int:
        self._last_id += 1
        return self._last_id

    def reset(self) -> None:
        """Forget everything but which ids were given."""
        self.tracks, self.t_ns = self.tracks[:0], None
        self._history.clear()

    def add(self, batch: DetectionBatch | Support) -> None:
        """Take the detections of one instant; late ones are inserted at their own time.

        Raises:
            MessageError: the batch is older than the history.
            ShapeError: a class that the tracker has no settings for.
        """
        batch = batch.sound()
        self._labels_of(batch)  # refuses unknown classes before anything changes
        if self.t_ns is None or batch.t_ns >= self.t_ns:
            self._take(batch, np.zeros(len(batch.label), np.int64))
            return
        oldest_ns = self.t_ns - round(self.settings.history_s * 1e9)
        if batch.t_ns < oldest_ns or not self._history or batch.t_ns < (self._history[0].before_ns or batch.t_ns):
            late_ms = (self.t_ns - batch.t_ns) / 1e6
            raise MessageError(
                f"detections of {batch.source} come {late_ms:.0f} ms late; the tracker's history holds "
                f"{self.settings.history_s * 1e3:.0f} ms"
            )
        again: list[_Taken] = []
        while self._history and self._history[-1].batch.t_ns > batch.t_ns:
            again.append(self._history.pop())
        self.tracks, self.t_ns = again[-1].before, again[-1].before_ns
        self._take(batch, np.zeros(len(batch.label), np.int64))
        for taken in reversed(again):
            self._take(taken.batch, taken.ids)

    def tracks_at(self, t_ns: int) -> Tracks:
        """Return a copy of the tracks, moved to an instant."""
        tracks = self.tracks.copy()
        if self.t_ns is not None:
            self._move(tracks, (t_ns - self.t_ns) * 1e-9)
        return tracks

    def shown(self, tracks: Tracks, t_ns: int) -> NDArray[np.bool_]:
        """True for each track that is to be given out: seen for long enough, and not too long ago."""
        label = tracks["label"]
        unseen_s = (t_ns - tracks["seen_ns"]) * 1e-9
        known_s = (tracks["seen_ns"] - tracks["born_ns"]) * 1e-9
        recent = unseen_s <= self._numbers["coast_s"][label] + 1e-6
        sure = tracks["existence"] >= self._shown_odds[label]
        return np.asarray(sure & recent & (known_s >= self._numbers["confirm_s"][label] - 1e-6))

    def _take(self, batch: DetectionBatch | Support, ids: NDArray[np.int64]) -> None:
        """Take a batch that is not older than the tracks; `ids` are given on where a detection gave birth before."""
        before, before_ns = self.tracks, self.t_ns
        self._history.append(_Taken(batch, before, before_ns, ids))
        horizon_ns = batch.t_ns - round(self.settings.history_s * 1e9)
        while len(self._history) > 1 and self._history[0].batch.t_ns < horizon_ns:
            self._history.popleft()
        tracks = before.copy()
        self._move(tracks, 0.0 if before_ns is None else (batch.t_ns - before_ns) * 1e-9)
        source = self._source(batch.source)
        label, score = self._labels_of(batch), self._scores(batch)
        if isinstance(batch, Support):
            self._support(tracks, batch.ids, label, score, source)
            self.tracks, self.t_ns = tracks, batch.t_ns
            return
        match = self._match(tracks, batch, label)
        seen = match != UNMATCHED
        tracks["detection"] = match
        self._update(tracks, seen, batch, match[seen], label, score, source)
        self._miss(tracks, ~seen, batch)
        born = np.ones(len(label), np.bool_)
        born[match[seen]] = False
        index = np.flatnonzero(born)
        if len(index) and self.settings.overlap_max < 1:
            index = index[self._have_place(tracks, batch, index, score)]
        if len(index):
            tracks = np.concatenate((tracks, self._born(batch, index, label, score, source, ids)))
        living = self._living(tracks, batch.t_ns)
        self.tracks, self.t_ns = some_of(tracks, living), batch.t_ns

    def _source(self, name: str) -> int:
        if name not in self.sources:
            self.sources.append(name)
        return self.sources.index(name)

    def _labels_of(self, batch: DetectionBatch | Support) -> NDArray[np.int64]:
        """Return labels by this tracker's classes."""
        if not batch.classes:
            return np.zeros(0, np.int64)
        labels = np.array([self._number.get(name, -1) for name in batch.classes], np.int64)[batch.label]
        if (labels < 0).any():
            name = batch.classes[batch.label[labels < 0][0]]
            raise ShapeError(
                f"{batch.source} detects '{name}', which the tracker has no settings for; it knows "
                f"{', '.join(self.names)}.{did_you_mean(name, self.names)}"
            )
        return labels

    def _reliability(self, source: str) -> Reliability:
        known = self.settings.reliability
        return known.get(source) or known.get("") or Reliability()

    def _scores(self, batch: DetectionBatch | Support) -> NDArray[np.float64]:
        """Return the log-odds that each detection is of something real."""
        trust = self._reliability(batch.source)
        raw = np.asarray(batch.score, np.float64) if trust.logit else odds(np.asarray(batch.score, np.float64))
        lines = [trust.by_class.get(name, (trust.slope, trust.offset)) for name in batch.classes]
        slope, offset = np.array(lines).reshape(-1, 2)[batch.label].T
        return within(slope * raw + offset, MAX_ODDS)

    def _move(self, tracks: Tracks, seconds: float) -> None:
        if not len(tracks) or not seconds:
            return
        label = tracks["label"]
        predict(tracks["mean"], tracks["cov"], self.motion_models[label], self.process_noise[label], float(seconds))
        drift_alone(tracks["height"][:, 1:], 2 * self._numbers["height_m"], label, float(seconds))
        drift_alone(tracks["size_variance"], self._numbers["size_drift_mps"], label, float(seconds))
        exists = probability(tracks["existence"]) * math.exp(-max(0.0, seconds) / self.settings.memory_s)
        tracks["existence"] = odds(exists)

    def _match(self, tracks: Tracks, batch: DetectionBatch, label: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the detection of each track, UNMATCHED where none."""
        match = np.full(len(tracks), UNMATCHED)
        if not len(tracks) or not len(label):
            return match
        boxes, expected = batch.boxes(), boxes_of(tracks)
        cov = tracks["cov"]
        spread = np.empty((len(tracks), 4))
        spread[:, 0], spread[:, 1], spread[:, 2] = cov[:, 0, 0], cov[:, 1, 1], cov[:, 0, 1]
        spread[:, 3] = tracks["height"][:, 1]
        widen = self._reliability(batch.source).noise
        noise = np.empty((len(label), 2))
        noise[:, 0], noise[:, 1] = self._numbers["position_m"][label], self._numbers["height_m"][label]
        track_family, family = self._family[tracks["label"]], self._family[label]
        for number in sorted({*track_family.tolist()} & {*family.tolist()}):
            rows, columns = np.flatnonzero(track_family == number), np.flatnonzero(family == number)
            one = self._per_class[int(np.flatnonzero(self._family == number)[0])]
            giou = one.affinity == "giou"
            most = 1 - one.giou_min if giou else one.mahalanobis_max
            row, column, cost = pairs_of_family(
                expected[rows], spread[rows], boxes[columns], (widen * noise[columns]) ** 2, one.reach_m,
                GIOU if giou else MAHALANOBIS, most,
            )  # fmt: skip
            solve = match_pairs if one.matching == "hungarian" else match_pairs_greedily
            found = solve(row, column, cost, len(rows), len(columns), most)
            match[rows[found != UNMATCHED]] = columns[found[found != UNMATCHED]]
        return match

    def _update(
        self,
        tracks: Tracks,
        seen: NDArray[np.bool_],
        batch: DetectionBatch,
        index: NDArray[np.int64],
        label: NDArray[np.int64],
        score: NDArray[np.float64],
        source: int,
    ) -> None:
        if not len(index):
            return
        found = some_of(tracks, seen)
        kind, widen = found["label"].copy(), self._reliability(batch.source).noise
        agrees = np.zeros(len(found), np.int64)
        model = self.motion_models[kind]
        update(found["mean"], found["cov"], model, batch.measured(index), widen * self._spread[kind], agrees)
        found["heading"] = within(found["heading"] + agrees, HEADING_VOTES)
        wrong = found["heading"] < 0
        if wrong.any():
            turned = found[wrong]
            turn_around(turned["mean"], turned["cov"], model[wrong])
            turned["heading"] = -turned["heading"]
            found[wrong] = turned
        update_alone(found["height"][:, :1], found["height"][:, 1:], batch.center_m[index, 2:],
                     widen * self._numbers["height_m"][kind])  # fmt: skip
        update_alone(found["size"], found["size_variance"], batch.size_lwh_m[index],
                     widen * self._numbers["size_m"][kind])  # fmt: skip
        gain = self._evidence() * (score[index] + self._numbers["hit_odds"][kind])
        found["existence"] = within(found["existence"] + gain, MAX_ODDS)
        add_evidence(found["evidence"], self._class_evidence(batch.source, label[index], score[index]), found["label"])
        convert(found["mean"], found["cov"], model, self.motion_models[found["label"]])
        found["seen_ns"], found["score"] = batch.t_ns, score[index]
        found["sources"] |= 1 << source
        if found is not tracks:
            tracks[seen] = found

    def _evidence(self) -> float:
        """Return what the word of one detector counts: all that spoke of late count as much together as one alone.

        They look at the same scene, take the same things for objects and miss the same ones, mostly since something is
        in the way; as if they knew nothing of each other, two would be twice as sure, and forget twice as fast.
        """
        speaking = {taken.batch.source for taken in self._history if isinstance(taken.batch, DetectionBatch)}
        return self.settings.evidence / max(1, len(speaking))

    def _class_evidence(self, source: str, label: NDArray[np.int64], score: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return what detections say of classes, (n, K)."""
        if source not in self._said:
            self._said[source] = said_by_class(self._reliability(source).confusion, self.names)
        return class_evidence(self._said[source], label, probability(score))

    def _support(
        self,
        tracks: Tracks,
        ids: NDArray[np.int64],
        label: NDArray[np.int64],
        score: NDArray[np.float64],
        source: int,
    ) -> None:
        row_of = {identity: row for row, identity in enumerate(tracks["id"].tolist())}
        for identity, kind, sure in zip(ids.tolist(), label.tolist(), score.tolist(), strict=True):
            row = row_of.get(identity)
            if row is None:
                continue
            gain = self.settings.evidence * (sure + self._numbers["hit_odds"][kind])
            tracks["existence"][row] = np.clip(tracks["existence"][row] + gain, -MAX_ODDS, MAX_ODDS)
            tracks["sources"][row] |= 1 << source
            evidence = self._class_evidence(self.sources[source], np.array([kind]), np.array([sure]))[0]
            before = int(tracks["label"][row])
            tracks["evidence"][row] += evidence
            tracks["evidence"][row] -= tracks["evidence"][row].max()
            tracks["label"][row] = tracks["evidence"][row].argmax()
            part = tracks[row : row + 1]
            convert(part["mean"], part["cov"], self.motion_models[[before]], self.motion_models[part["label"]])

    def _miss(self, tracks: Tracks, missed: NDArray[np.bool_], batch: DetectionBatch) -> None:
        """Lower the odds of what this detector looks for and could have seen, and did not."""
        known = np.array([name in batch.classes for name in self.names])
        due = missed & known[tracks["label"]]
        if batch.seen is not None and due.any():
            due &= batch.seen.contains(tracks["mean"][:, :2])
        hit = self._numbers["detection_probability"][tracks["label"]]
        lost = self._evidence() * np.log1p(-hit)
        tracks["existence"] = np.where(due, np.maximum(tracks["existence"] + lost, -MAX_ODDS), tracks["existence"])

    def _have_place(
        self, tracks: Tracks, batch: DetectionBatch, index: NDArray[np.int64], score: NDArray[np.float64]
    ) -> NDArray[np.bool_]:
        """True for each detection (n,) on whose ground no track and no other of them is surer: it may be an object."""
        ground = footprints(np.concatenate((boxes_of(tracks), batch.boxes()[index])))
        sure = np.concatenate((tracks["existence"], score[index]))
        return surest_apart(ground, sure, self.settings.overlap_max)[len(tracks) :]

    def _born(
        self,
        batch: DetectionBatch,
        index: NDArray[np.int64],
        label: NDArray[np.int64],
        score: NDArray[np.float64],
        source: int,
        ids: NDArray[np.int64],
    ) -> Tracks:
        made: Tracks = np.zeros(len(index), self.tracks.dtype)
        for at in index[ids[index] == 0]:
            ids[at] = self._new_id()
        kind, measured = label[index], batch.measured(index)
        widen = self._reliability(batch.source).noise
        made["id"], made["born_ns"], made["seen_ns"], made["label"] = ids[index], batch.t_ns, batch.t_ns, kind
        made["evidence"] = self._class_evidence(batch.source, kind, score[index])
        made["existence"], made["score"] = score[index], score[index]
        made["mean"][:, :3] = measured[:, :3]
        made["cov"][:, 0, 0] = made["cov"][:, 1, 1] = (widen * self._numbers["position_m"][kind]) ** 2
        made["cov"][:, 2, 2] = (widen * self._numbers["heading_rad"][kind]) ** 2
        turning = self.motion_models[kind] == TURNING
        speed = self._numbers["speed_mps"][kind] ** 2
        made["cov"][:, 3, 3] = speed
        made["cov"][:, 4, 4] = np.where(turning, 0.2**2, speed)
        made["height"][:, 0] = batch.center_m[index, 2]
        made["height"][:, 1] = (widen * self._numbers["height_m"][kind]) ** 2
        made["size"] = batch.size_lwh_m[index]
        made["size_variance"] = ((widen * self._numbers["size_m"][kind]) ** 2)[:, None]
        made["sources"], made["detection"], made["heading"] = 1 << source, index, 1
        spread = widen * self._spread[kind]
        fast = np.isfinite(measured[:, 3:]).all(axis=1)
        if fast.any():  # a measured velocity: of a turning object, its speed along the heading
            first = made[fast]
            update(first["mean"], first["cov"], self.motion_models[kind[fast]], measured[fast], spread[fast],
                   np.zeros(len(first), np.int64))  # fmt: skip
            made[fast] = first
        return made

    def _living(self, tracks: Tracks, t_ns: int) -> NDArray[np.bool_]:
        unseen_s = (t_ns - tracks["seen_ns"]) * 1e-9
        sure = tracks["existence"] >= self._least_odds
        return np.asarray(sure & (unseen_s <= self._numbers["forget_s"][tracks["label"]] + 1e-6))


_NUMBERS = tuple(name for name, kind in ClassSettings.__annotations__.items() if kind == "float")  # which are text here

__all__ = ["Tracker"]
