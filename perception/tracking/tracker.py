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

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from perception.errors import MessageError, ShapeError, did_you_mean
from perception.ops.boxes_bev import footprints, surest_apart
from perception.tracking.class_evidence import add_evidence, said_by_class
from perception.tracking.class_table import class_table
from perception.tracking.motion import convert
from perception.tracking.passes import Seen, begin, living, meant, move, observe, shown
from perception.tracking.settings import Reliability, TrackerSettings
from perception.tracking.tracks import (
    EVERYWHERE,
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

KNOWN_BATCHES = 64
"""Of so many detectors and lists of classes it is kept what their labels and scores mean."""


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
        self._classes = class_table(settings)
        self._number = {name: number for number, name in enumerate(self.names)}
        self._least_odds = float(odds(settings.existence_min))
        self.motion_models = self._classes["model"].copy()
        self.process_noise = np.column_stack((self._classes["acceleration_mps2"], self._classes["turn"]))
        self._meaning = lru_cache(KNOWN_BATCHES)(self._meaning_of)
        self._said = lru_cache(KNOWN_BATCHES)(
            lambda source: said_by_class(self._reliability(source).confusion, self.names)
        )
        self._history: deque[_Taken] = deque()
        self._last_id = 0
        self._new_id = new_id or self._count_up

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
        self._check(batch)  # refuses unknown classes before anything changes
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
        """True for each track to be given out: seen for long enough, not too long ago, surest of those in its place."""
        return np.asarray(shown(tracks, self._classes, t_ns, self.settings.overlap_max))

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
        meaning, trust = self._meaning(batch.source, batch.classes), self._reliability(batch.source)
        label, score = meant(batch.label, batch.score, meaning.number, meaning.lines, trust.logit)
        if isinstance(batch, Support):
            self._support(tracks, batch.ids, label, score, source)
            self.tracks, self.t_ns = tracks, batch.t_ns
            return
        fast = np.full((len(label), 2), np.nan) if batch.velocity_mps is None else batch.velocity_mps
        seen = Seen(batch.center_m, batch.size_lwh_m, batch.yaw_rad, fast, label, score)
        index = observe(
            tracks, seen, self._said(batch.source), self._classes, meaning.sought,
            (batch.seen or EVERYWHERE).sector, trust.noise, self._evidence(), source, batch.t_ns,
        )  # fmt: skip
        if len(index) and self.settings.overlap_max < 1:
            index = index[self._have_place(tracks, batch, index, score)]
        if len(index):
            tracks = np.concatenate((tracks, self._born(batch, seen, index, source, ids)))
        kept = living(tracks, self._classes, self._least_odds, batch.t_ns)
        self.tracks, self.t_ns = some_of(tracks, kept), batch.t_ns

    def _source(self, name: str) -> int:
        if name not in self.sources:
            self.sources.append(name)
        return self.sources.index(name)

    def _meaning_of(self, source: str, classes: tuple[str, ...]) -> _Meaning:
        trust, number = self._reliability(source), np.array([self._number.get(name, -1) for name in classes], np.int64)
        lines = np.array([trust.by_class.get(name, (trust.slope, trust.offset)) for name in classes], np.float64)
        sought = np.zeros(len(self.names), np.bool_)
        sought[number[number >= 0]] = True
        return _Meaning(number, lines.reshape(-1, 2), sought, bool((number < 0).any()))

    def _check(self, batch: DetectionBatch | Support) -> None:
        meaning = self._meaning(batch.source, batch.classes)
        if not meaning.has_strange:
            return
        strange = batch.label[meaning.number[batch.label] < 0]
        if len(strange):
            name = batch.classes[strange[0]]
            raise ShapeError(
                f"{batch.source} detects '{name}', which the tracker has no settings for; it knows "
                f"{', '.join(self.names)}.{did_you_mean(name, self.names)}"
            )

    def _reliability(self, source: str) -> Reliability:
        known = self.settings.reliability
        return known.get(source) or known.get("") or Reliability()

    def _move(self, tracks: Tracks, seconds: float) -> None:
        if len(tracks) and seconds:
            move(tracks, self._classes, float(seconds), self.settings.memory_s)

    def _evidence(self) -> float:
        """Return what the word of one detector counts: all that spoke of late count as much together as one alone.

        They look at the same scene, take the same things for objects and miss the same ones, mostly since something is
        in the way; as if they knew nothing of each other, two would be twice as sure, and forget twice as fast.
        """
        speaking = {taken.batch.source for taken in self._history if isinstance(taken.batch, DetectionBatch)}
        return self.settings.evidence / max(1, len(speaking))

    def _support(
        self,
        tracks: Tracks,
        ids: NDArray[np.int64],
        label: NDArray[np.int64],
        score: NDArray[np.float64],
        source: int,
    ) -> None:
        row_of, said = {identity: row for row, identity in enumerate(tracks["id"].tolist())}, self.sources[source]
        for identity, kind, sure in zip(ids.tolist(), label.tolist(), score.tolist(), strict=True):
            if (row := row_of.get(identity)) is None:
                continue
            track = tracks[row]
            gain = self.settings.evidence * (sure + float(self._classes["hit_odds"][kind]))
            track["existence"] = within(float(track["existence"]) + gain, MAX_ODDS)
            track["sources"] |= 1 << source
            before = int(track["label"])
            track["label"] = add_evidence(track["evidence"], self._said(said), kind, probability(sure))
            convert(track["mean"], track["cov"], *self.motion_models[[before, track["label"]]].tolist())

    def _have_place(
        self, tracks: Tracks, batch: DetectionBatch, index: NDArray[np.int64], score: NDArray[np.float64]
    ) -> NDArray[np.bool_]:
        """True for each detection (n,) on whose ground no track and no other of them is surer: it may be an object."""
        ground = footprints(np.concatenate((boxes_of(tracks), batch.boxes()[index])))
        sure = np.concatenate((tracks["existence"], score[index]))
        return surest_apart(ground, sure, self.settings.overlap_max)[len(tracks) :]

    def _born(
        self, batch: DetectionBatch, seen: Seen, index: NDArray[np.int64], source: int, ids: NDArray[np.int64]
    ) -> Tracks:
        made: Tracks = np.zeros(len(index), self.tracks.dtype)
        for at in index[ids[index] == 0]:
            ids[at] = self._new_id()
        made["id"] = ids[index]
        widen = self._reliability(batch.source).noise
        begin(made, index, seen, self._said(batch.source), self._classes, widen, source, batch.t_ns)
        return made


@dataclass(frozen=True, eq=False)
class _Meaning:
    """What the labels and scores of a detector mean: for each of its C classes, and which of the tracker's it knows."""

    number: NDArray[np.int64]
    """(C,) the tracker's, -1 for none."""
    lines: NDArray[np.float64]
    """(C, 2) slope and offset of the line through the log-odds of its scores."""
    sought: NDArray[np.bool_]
    """(K,) by the tracker's classes."""
    has_strange: bool
    """Whether the tracker does not know all of them."""


__all__ = ["Tracker"]
