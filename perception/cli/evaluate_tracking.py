"""`perception evaluate tracking`: tracks in result files against files of truth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perception.cli.evaluate_results import AsJson, Results, Truth, choose, show

if TYPE_CHECKING:
    from perception.evaluation.tracking_clear import ClearCounts

KITTI_SHOWN = ("sAMOTA", "AMOTA", "AMOTP", "MOTA", "MOTP", "IDS", "FRAG", "TP", "FP", "FN", "MT", "ML")
RULES = ("ab3dmot", "clear", "hota", "kitti", "nuscenes", "scalabel")


def tracking(
    truth: Truth,
    results: Results,
    rules: Annotated[
        str,
        typer.Option(
            help="clear or hota (MOTChallenge files), ab3dmot (KITTI folders, boxes in space) or kitti (in the image), "
            "nuscenes, scalabel."
        ),
    ] = "hota",
    config: Annotated[Path | None, typer.Option(help="scalabel: the categories, TOML.")] = None,
    tables: Annotated[Path | None, typer.Option(help="nuscenes: the folder with sample.json.")] = None,
    sequence: Annotated[
        list[str] | None, typer.Option(help="ab3dmot, kitti: only this sequence; may be repeated.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Score tracks, for example: perception evaluate tracking --rules clear --truth gt.txt --results out.txt."""
    choose(rules, RULES)
    if rules in ("ab3dmot", "kitti"):
        _kitti(rules, truth, results, sequence or [], as_json=as_json)
        return
    if rules == "scalabel":
        scores = _scalabel(truth, results, config)
    elif rules == "nuscenes":
        scores = _nuscenes(truth, results, tables)
    else:
        scores = _mot(truth, results, rules)
    show({"rules": rules, **scores}, as_json=as_json)


def _kitti(rules: str, truth: Path, results: Path, sequences: list[str], *, as_json: bool) -> None:
    from perception.evaluation.tracking import evaluate_tracking

    found = evaluate_tracking("kitti" if rules == "kitti" else "ab3dmot", truth, results, sequences)
    if as_json:
        print(json.dumps({"rules": rules, **found}, indent=1))
        return
    for overlap, classes in found.items():
        names = [name for name in KITTI_SHOWN if any(name in figures for figures in classes.values())]
        print(f"{overlap:<14}" + "".join(f"{name:>9}" for name in names))
        for label, figures in classes.items():
            cells = (figures[name] for name in names)
            print(f"{label:<14}" + "".join(f"{c:>9.2f}" if isinstance(c, float) else f"{c:>9}" for c in cells))


def _mot(truth: Path, results: Path, rules: str) -> dict[str, Any]:
    from perception.evaluation.mot_file import mot_pairs, mot_sequence, read_mot
    from perception.evaluation.tracking_clear import clear
    from perception.evaluation.tracking_hota import hota

    sequences = {
        name: mot_sequence(read_mot(there, truth=True), read_mot(given, truth=False))
        for name, (there, given) in mot_pairs(truth, results).items()
    }
    if rules == "hota":
        table = {name: hota([sequence]).summary() for name, sequence in sequences.items()}
        return {**table, "OVERALL": hota(list(sequences.values())).summary()}
    table = {name: clear_summary(clear([sequence])) for name, sequence in sequences.items()}
    return {**table, "OVERALL": clear_summary(clear(sequences.values()))}


def clear_summary(counts: ClearCounts) -> dict[str, float]:
    """Return CLEAR and identity numbers under the names of py-motmetrics."""
    return {
        "mota": counts.mota, "motp": counts.motp, "idf1": counts.idf1, "idp": counts.idp, "idr": counts.idr,
        "recall": counts.recall, "precision": counts.precision, "num_unique_objects": counts.unique_objects,
        "mostly_tracked": counts.mostly_tracked, "partially_tracked": counts.partially_tracked,
        "mostly_lost": counts.mostly_lost, "num_false_positives": counts.false_positives,
        "num_misses": counts.misses, "num_switches": counts.switches, "num_fragmentations": counts.fragmentations,
    }  # fmt: skip


def _scalabel(truth: Path, results: Path, config: Path | None) -> dict[str, Any]:
    from perception.evaluation.scalabel_tracks import BDD100K, class_means, evaluate_scalabel, read_categories

    categories = BDD100K if config is None else read_categories(config)
    counts = evaluate_scalabel(truth, results, categories)
    table = {
        name: {
            "MOTA": 100 * of.mota, "MOTP": 100 * (1 - of.motp), "IDF1": 100 * of.idf1, "FP": of.false_positives,
            "FN": of.misses, "IDSw": of.switches, "MT": of.mostly_tracked, "PT": of.partially_tracked,
            "ML": of.mostly_lost, "FM": of.fragmentations,
        }
        for name, of in counts.items()
    }  # fmt: skip
    return {
        **table,
        "class_mean": {name: 100 * value for name, value in class_means(counts, categories.leaves).items()},
    }


def _nuscenes(truth: Path, results: Path, tables: Path | None) -> dict[str, Any]:
    from perception.evaluation.nuscenes_tracks import read_scenes
    from perception.evaluation.tracking_nuscenes import evaluate

    scenes = read_scenes(truth, results, tables)
    names = sorted({track.name for scene in scenes for track in scene.truth})
    return {name: {key: float(value) for key, value in of.items()} for name, of in evaluate(scenes, names).items()}
