"""What a tracker is told: how each class moves, how detections scatter, how long tracks live. Times, never frames."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Affinity: TypeAlias = Literal["giou", "mahalanobis"]
Matching: TypeAlias = Literal["hungarian", "greedy"]
Motion: TypeAlias = Literal["turning", "straight"]


@dataclass(frozen=True, kw_only=True)
class ClassSettings:
    """One class, or a family of classes that detectors confuse.

    Standard deviations are those of one detection; accelerations those of the object between two.
    """

    motion: Motion = "turning"
    acceleration_mps2: float = 2.5
    turn_radps2: float = 0.6
    """Turn acceleration of `turning`."""
    heading_drift_radps: float = 0.5
    """Of `straight`, whose heading has no rate."""
    position_m: float = 0.25
    heading_rad: float = 0.15
    velocity_mps: float = 0.8
    """Of detectors that measure velocity."""
    height_m: float = 0.1
    size_m: float = 0.2
    size_drift_mps: float = 0.05
    speed_mps: float = 8.0
    """How fast a new object may be."""
    affinity: Affinity = "giou"
    matching: Matching = "hungarian"
    giou_min: float = -0.4
    mahalanobis_max: float = 4.0
    """Distance in standard deviations; 4 leaves out 1 in 900 of the right pairs (chi-square, 3 degrees of freedom)."""
    reach_m: float = 6.0
    """Pairs further apart are never looked at."""
    detection_probability: float = 0.9
    hit_odds: float = 2.0
    """Log-odds that a detection adds to its score's where a track was expected: false ones seldom come back there."""
    coast_s: float = 0.5
    """How long an unseen track is still given out."""
    forget_s: float = 1.5
    """How long an unseen track can be taken up again."""
    confirm_s: float = 0.0
    """For how long a track must have been seen before it is given out."""
    show_existence: float = 0.1
    """How probable a track must be to be given out."""


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """What a detector's score is worth: `probability = 1 / (1 + exp(-(slope * score + offset)))` of the raw score.

    With `logit` False the score is a probability and is turned into log-odds first. `noise` widens all standard
    deviations of its detections. `perception.evaluation.reliability` finds slope and offset.
    """

    slope: float = 1.0
    offset: float = 0.0
    by_class: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Slope and offset of the classes that have their own."""
    logit: bool = False
    noise: float = 1.0
    confusion: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """True class -> class that is said -> how often. What is not named is right 19 times of 20."""


@dataclass(frozen=True, kw_only=True)
class TrackerSettings:
    """A tracker."""

    classes: Mapping[str, ClassSettings]
    """Settings by class name, the class's identity to a planner."""
    families: Mapping[str, str] = field(default_factory=dict)
    """Class -> family; detections match tracks of their family only. A class without one is its own."""
    reliability: Mapping[str, Reliability] = field(default_factory=dict)
    """By source; "" for those that are not named."""
    evidence: float = 0.5
    """Weight of each further detection: detections of one object are not independent of each other."""
    existence_min: float = 0.02
    """Below it a track is forgotten."""
    memory_s: float = 20.0
    """Without any news, the odds that something is still there fall by e in this time."""
    overlap_max: float = 1.0
    """No track begins that shares more than this part of the smaller one's ground with a surer track."""
    history_s: float = 1.0
    """How late a detection may come and still be inserted at its own time."""


__all__ = ["Affinity", "ClassSettings", "Matching", "Motion", "Reliability", "TrackerSettings"]
