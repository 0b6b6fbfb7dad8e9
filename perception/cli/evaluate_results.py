"""`perception evaluate detection|segmentation|pose|recognition`: result files against files of truth."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perception.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from perception.evaluation.segmentation import Confusion

Truth = Annotated[Path, typer.Option("--truth", help="File or folder of the truth.")]
Results = Annotated[Path, typer.Option("--results", help="File or folder of the results.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def choose(rules: str, known: tuple[str, ...]) -> str:
    """Return the rules, if there are such.

    Raises:
        UserError: there are not.
    """
    if rules not in known:
        raise UserError(f"no rules '{rules}'; expected {', '.join(known)}.{did_you_mean(rules, known)}")
    return rules


def show(document: Mapping[str, Any], *, as_json: bool) -> None:
    """Print scores as JSON, NaN as null, or as indented lines."""
    if as_json:
        print(json.dumps(_plain(document), indent=1))
    else:
        _show_lines(document, "")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _show_lines(document: Mapping[str, Any], indent: str) -> None:
    width = max((len(str(key)) for key in document), default=0)
    for key, value in document.items():
        if isinstance(value, Mapping):
            print(f"{indent}{key}")
            _show_lines(value, indent + "  ")
        else:
            print(f"{indent}{key!s:<{width}}  {f'{value:.4f}' if isinstance(value, float) else value}")


def detection(
    truth: Truth,
    results: Results,
    rules: Annotated[
        str, typer.Option(help="nuscenes (JSON by sample) or kitti (folders of label files).")
    ] = "nuscenes",
    classes: Annotated[str, typer.Option(help="Classes, comma separated; by default those of the truth.")] = "",
    as_json: AsJson = False,
) -> None:
    """Score boxes, for example: perception evaluate detection --rules nuscenes --truth gt.json --results pred.json."""
    chosen = [name for name in classes.split(",") if name]
    scored = _nuscenes if choose(rules, ("nuscenes", "kitti")) == "nuscenes" else _kitti
    show({"rules": rules, **scored(truth, results, chosen)}, as_json=as_json)


def _nuscenes(truth: Path, results: Path, classes: list[str]) -> dict[str, Any]:
    import numpy as np

    from perception.evaluation.breakdown import by_distance, matched
    from perception.evaluation.calibration import reliability
    from perception.evaluation.detection_nuscenes import CLASS_RANGE_M, evaluate
    from perception.evaluation.nuscenes_boxes import read_nuscenes_boxes

    there, samples = read_nuscenes_boxes(truth, truth=True)
    given, _ = read_nuscenes_boxes(results, truth=False, samples=samples)
    names = classes or sorted({str(name) for name in there.name})
    scores = evaluate(there, given, names)
    if scores.num_truth == 0:
        raise UserError(
            f"{truth}: no box with points lies in its class's range of the vehicle; "
            "where translations are in a global frame, give every box its ego_translation"
        )
    near = there.within(CLASS_RANGE_M)
    known = given.within(CLASS_RANGE_M)
    near, known = near[np.isin(near.name, names)], known[np.isin(known.name, names)]
    found = matched(near, known)
    return {
        "mAP": scores.mean_ap,
        "NDS": scores.nds,
        "AP": {
            name: {**{str(distance): ap for distance, ap in of.items()}, "mean": scores.class_ap[name]}
            for name, of in scores.ap.items()
        },
        "TP": scores.errors,
        "mean_TP": scores.mean_errors,
        "by_distance": by_distance(near, known, found),
        "calibration_error": reliability(np.clip(known.score, 0, 1), found >= 0).expected_error,
        "n_gt": scores.num_truth,
        "n_pred": scores.num_results,
        "n_samples": len(samples),
    }


def _kitti(truth: Path, results: Path, classes: list[str]) -> dict[str, Any]:
    from perception.evaluation.detection_kitti import MEASURES, MIN_OVERLAP, evaluate
    from perception.geometry.kitti_labels import read_pairs

    frames = read_pairs(truth, results)
    present = {str(name) for of_truth, _ in frames for name in of_truth.name}
    names = [name.lower() for name in classes] or [name for name in MIN_OVERLAP if name in present]
    if unknown := [name for name in names if name not in MIN_OVERLAP]:
        raise UserError(f"KITTI's rules have no class '{unknown[0]}'; expected {', '.join(MIN_OVERLAP)}")
    table: dict[str, Any] = {}
    for name in names:
        scores = {measure: evaluate(frames, name, measure) for measure in MEASURES}
        table[name] = {f"AP_{measure}": of.ap for measure, of in scores.items()} | {"AOS": scores["image"].aos}
    return {"recalls": 40, "AP": table, "n_frames": len(frames)}


def segmentation(
    truth: Truth,
    results: Results,
    rules: Annotated[
        str, typer.Option(help="cityscapes (folders of PNG labels) or scalabel (JSON, its numbers in percent).")
    ] = "cityscapes",
    classes: Annotated[
        str, typer.Option(help="Class of label 0, 1, ..., comma separated; by default the 19 of Cityscapes.")
    ] = "",
    ignore: Annotated[int, typer.Option(help="cityscapes: the label of true pixels without a class.")] = 255,
    as_json: AsJson = False,
) -> None:
    """Score masks, for example: perception evaluate segmentation --rules cityscapes --truth labels/ --results ours/."""
    from perception.errors import ShapeError
    from perception.evaluation.mask_files import CITYSCAPES, read_mask_folders, read_scalabel_masks
    from perception.evaluation.segmentation import Confusion

    names = tuple(name.strip() for name in classes.split(",") if name.strip()) or CITYSCAPES
    official = choose(rules, ("cityscapes", "scalabel")) == "scalabel"
    pairs = read_scalabel_masks(truth, results, names) if official else read_mask_folders(truth, results, ignore)
    counts, pictures = Confusion(len(names)), 0
    for pair in pairs:
        pictures += 1
        try:
            counts.add(pair.truth, pair.results)
        except ShapeError as error:
            raise UserError(f"{pair.name}: {error}; --classes names the classes of other labels") from None
    show({"rules": rules, **_mask_scores(counts, names, official=official), "n_frames": pictures}, as_json=as_json)


def _mask_scores(counts: Confusion, names: tuple[str, ...], *, official: bool) -> dict[str, Any]:
    """Return the figures, under scalabel's own names where they are its own: its `mAcc` is the mean precision."""
    there = counts.true_classes
    scores = counts.scores(there if official else None)
    if official:
        figures = {
            "mIoU": scores.mean_iou, "mAcc": scores.mean_precision, "fIoU": scores.frequency_weighted_iou,
            "pAcc": scores.pixel_accuracy,
        }  # fmt: skip
        return {name: 100 * value for name, value in figures.items()} | {
            "IoU": {names[k]: 100 * float(scores.iou[k]) for k in there}
        }
    seen = [k for k in range(len(names)) if not math.isnan(scores.iou[k])]  # NaN: nowhere true, nowhere answered
    return {
        "mIoU": scores.mean_iou, "pixel_accuracy": scores.pixel_accuracy, "mean_accuracy": scores.mean_accuracy,
        "frequency_weighted_IoU": scores.frequency_weighted_iou,
        "IoU": {names[k]: float(scores.iou[k]) for k in seen},
        "accuracy": {names[k]: float(scores.accuracy[k]) for k in seen},
        "confusion": {
            names[k]: {[*names, "none"][j]: int(n) for j, n in enumerate(counts.counts[k]) if n} for k in there
        },
    }  # fmt: skip


def pose(
    truth: Truth,
    results: Results,
    rules: Annotated[str, typer.Option(help="mpjpe: MPJPE, PA-MPJPE, PCK and AUC at 150 mm.")] = "mpjpe",
    as_json: AsJson = False,
) -> None:
    """Score body poses, for example: perception evaluate pose --truth joints.npz --results ours.npz."""
    from perception.evaluation.pose import evaluate
    from perception.evaluation.result_files import read_pose_pair

    choose(rules, ("mpjpe",))
    scores = evaluate(*read_pose_pair(truth, results))
    by_joint = {str(joint): float(value) for joint, value in enumerate(scores.by_joint_mm)}
    show(
        {
            "rules": rules, "MPJPE_mm": scores.mpjpe_mm, "PA_MPJPE_mm": scores.pa_mpjpe_mm, "PCK_150mm": scores.pck,
            "AUC_150mm": scores.auc, "n_frames": scores.num_frames, "MPJPE_mm_by_joint": by_joint,
        },
        as_json=as_json,
    )  # fmt: skip


def recognition(
    truth: Truth,
    results: Results,
    rules: Annotated[str, typer.Option(help="topk: top-1 and top-5 accuracy.")] = "topk",
    as_json: AsJson = False,
) -> None:
    """Score recognitions, for example: perception evaluate recognition --truth clips.csv --results answers.json."""
    from perception.evaluation.recognition import evaluate
    from perception.evaluation.result_files import read_answers, read_truth_classes

    choose(rules, ("topk",))
    scores = evaluate(read_truth_classes(truth), read_answers(results))
    show(
        {
            "rules": rules, "top1": scores.top1, "top5": scores.top5, "mean_class_top1": scores.mean_class_top1,
            "n_clips": scores.num_clips, "top1_by_class": scores.by_class,
        },
        as_json=as_json,
    )  # fmt: skip
