"""The settings of a tracker's classes as one table, for loops that are compiled."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from perception.tracking.association import GIOU, MAHALANOBIS
from perception.tracking.motion import STRAIGHT, TURNING
from perception.tracking.settings import ClassSettings, TrackerSettings
from perception.tracking.tracks import odds

ClassTable = NDArray[np.void]
NUMBERS = tuple(name for name, kind in ClassSettings.__annotations__.items() if kind == "float")  # text here
_ROW = np.dtype(
    [
        ("model", np.int64),  # TURNING or STRAIGHT
        ("family", np.int64),  # the first class of those that are taken for each other
        ("turn", np.float64),  # turn acceleration of TURNING in rad/s2, drift of the heading of STRAIGHT in rad/s
        ("shown_odds", np.float64),  # log-odds from which a track is given out
        ("affinity", np.int64),  # GIOU or MAHALANOBIS
        ("hungarian", np.int64),  # 1, or 0 for greedy
        ("cost_max", np.float64),  # what a pair may cost by that affinity
        *((name, np.float64) for name in NUMBERS),
    ]
)


def class_table(settings: TrackerSettings) -> ClassTable:
    """Return a row for each class, in the order of `settings.classes`."""
    table = np.zeros(len(settings.classes), _ROW)
    families = [settings.families.get(name, name) for name in settings.classes]
    table["family"] = [families.index(family) for family in families]
    for row, one in zip(table, settings.classes.values(), strict=True):
        turning = one.motion == "turning"
        row["model"] = TURNING if turning else STRAIGHT
        row["turn"] = one.turn_radps2 if turning else one.heading_drift_radps
        giou = one.affinity == "giou"
        row["affinity"], row["hungarian"] = GIOU if giou else MAHALANOBIS, one.matching == "hungarian"
        row["cost_max"] = 1 - one.giou_min if giou else one.mahalanobis_max
        for name in NUMBERS:
            row[name] = getattr(one, name)
    table["shown_odds"] = odds(table["show_existence"])
    return table


__all__ = ["ClassTable", "class_table"]
