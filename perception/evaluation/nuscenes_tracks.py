"""Read tracks in the result format of nuScenes and lay them out by scene.

The scene and time of a sample come from the tables of nuScenes (`sample.json`); without them a sample's token has to be
SCENE_NUMBER, half a second apart.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from perception.errors import UserError
from perception.evaluation.detection_nuscenes import CLASS_RANGE_M
from perception.evaluation.nuscenes_boxes import read_samples
from perception.evaluation.tracking_nuscenes import KEYFRAME_PERIOD_S, Scene, Track


def read_scenes(truth: Path, results: Path, tables: Path | None = None) -> list[Scene]:
    """Read truth and results.

    Args:
        truth: boxes by sample with `tracking_id`, `tracking_name`, `translation`; those with `num_pts` 0 are left out.
        results: the same with `tracking_score`.
        tables: a folder with nuScenes' `sample.json`.

    Raises:
        UserError: a file cannot be read, lacks a key, has a sample that the truth has not, or no scene can be told.
    """
    there, given = read_samples(truth), read_samples(results)
    if unknown := set(given) - set(there):
        raise UserError(f"{results}: {len(unknown)} samples that the truth has not, the first {min(unknown)!r}")
    places = _from_tables(tables, list(there)) if tables else _from_tokens(truth, list(there))
    scenes: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for token, (scene, t_ns) in places.items():
        scenes[scene].append((t_ns, token))
    laid_out = []
    for _, instants in sorted(scenes.items()):
        tokens = [token for _, token in sorted(instants)]
        stamps = np.array([t_ns for t_ns, _ in sorted(instants)], np.int64)
        try:
            tracks = _tracks([there[token] for token in tokens], truth=True)
            answers = _tracks([given.get(token, []) for token in tokens], truth=False)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{truth} and {results}: a box is not in nuScenes' tracking format: {type(error).__name__}: {error}"
            ) from None
        laid_out.append(Scene(stamps, tracks, answers))
    return laid_out


def _tracks(samples: Sequence[Sequence[Mapping[str, Any]]], *, truth: bool) -> list[Track]:
    rows: dict[tuple[str, str], list[tuple[int, list[float], float]]] = defaultdict(list)
    for instant, boxes in enumerate(samples):
        for box in boxes:
            place = box.get("ego_translation") or box["translation"]
            name = str(box["tracking_name"])
            if (truth and box.get("num_pts", -1) == 0) or np.hypot(*place[:2]) >= CLASS_RANGE_M.get(name, np.inf):
                continue
            score = 1.0 if truth else float(box["tracking_score"])
            rows[str(box["tracking_id"]), name].append((instant, [float(v) for v in box["translation"][:2]], score))
    return [
        Track(
            name,
            np.array([instant for instant, _, _ in of]),
            np.array([center for _, center, _ in of]),
            np.full(len(of), np.mean([score for _, _, score in of])),
        )
        for (_, name), of in rows.items()
    ]


def _from_tokens(path: Path, tokens: Sequence[str]) -> dict[str, tuple[str, int]]:
    places = {}
    for token in tokens:
        scene, _, number = token.rpartition("_")
        if not scene or not number.isdigit():
            raise UserError(
                f"{path}: sample {token!r} tells no scene; give the tables of nuScenes (--tables v1.0-...), "
                "or name samples SCENE_NUMBER"
            )
        places[token] = (scene, round(int(number) * KEYFRAME_PERIOD_S * 1e9))
    return places


def _from_tables(tables: Path, tokens: Sequence[str]) -> dict[str, tuple[str, int]]:
    path = tables / "sample.json"
    try:
        rows = {
            row["token"]: (row["scene_token"], int(row["timestamp"]) * 1000) for row in json.loads(path.read_text())
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: is no table of nuScenes samples: {error}") from None
    if missing := [token for token in tokens if token not in rows]:
        raise UserError(f"{path}: has no sample {missing[0]!r}; {len(missing)} of the truth are missing")
    return {token: rows[token] for token in tokens}


__all__ = ["read_scenes"]
