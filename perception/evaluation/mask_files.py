"""Read segmentation masks from result files: folders of pictures of labels, or Scalabel's JSON.

A picture (PNG, one channel) holds the label of each pixel; truth and results have the same names below their folders.
In Scalabel's JSON each label of a frame is an area in the compressed runs of COCO; later areas cover earlier ones.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from perception.errors import UserError
from perception.evaluation.segmentation import IGNORED
from perception.messages.masks import MAX_PIXELS

Labels: TypeAlias = NDArray[np.int64]
CITYSCAPES = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation", "terrain",
    "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
)  # fmt: skip
"""Class of each training label of Cityscapes and of BDD100K."""


@dataclass(frozen=True, eq=False)
class MaskPair:
    """True and reported labels (H, W) of one picture."""

    name: str
    truth: Labels
    results: Labels


def read_mask_folders(truth: Path, results: Path, ignored: int = IGNORED) -> Iterator[MaskPair]:
    """Yield the pictures of the truth in the order of their names; `ignored` in the truth becomes IGNORED.

    Raises:
        UserError: there are none, the results lack one, or one is no picture of labels or has another size.
    """
    files = {str(file.relative_to(truth)): file for file in sorted(truth.rglob("*.png"))}
    if not files:
        raise UserError(f"{truth}: holds no .png file; expected a folder of pictures of labels")
    if missing := [name for name in files if not (results / name).is_file()]:
        raise UserError(f"{results}: lacks {len(missing)} pictures of the truth, the first {missing[0]}")
    for name, file in files.items():
        there, given = _labels(file), _labels(results / name)
        if there.shape != given.shape:
            raise UserError(f"{results / name}: {given.shape} pixels (rows, columns); the truth has {there.shape}")
        there[there == ignored] = IGNORED
        yield MaskPair(name, there, given)


def _labels(path: Path) -> Labels:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            if picture.mode not in ("L", "P", "I", "I;16"):
                raise UserError(f"{path}: a picture in mode {picture.mode}; expected one channel that holds labels")
            return np.asarray(picture).astype(np.int64)
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError, SyntaxError) as error:
        raise UserError(f"{path}: is no picture of labels: {error}") from None


def read_scalabel_masks(truth: Path, results: Path, classes: Sequence[str] = CITYSCAPES) -> Iterator[MaskPair]:
    """Yield the frames of the truth; areas of other classes are left out, as in scalabel/scalabel (Apache-2.0).

    Raises:
        UserError: a file is not Scalabel's JSON, or the results lack a frame or have another size.
    """
    there, given = _frames(truth), _frames(results)
    if missing := [name for name in there if name not in given]:
        raise UserError(f"{results}: lacks {len(missing)} frames of the truth, the first {missing[0]}")
    for name, frame in there.items():
        areas, answers = _areas(truth, frame, classes), _areas(results, given[name], classes)
        sizes = {area.shape for _, area in (*areas, *answers)}
        if len(sizes) != 1:
            raise UserError(f"{results}: frame {name} has areas of {len(sizes)} sizes; expected one")
        yield MaskPair(name, _drawn(areas, next(iter(sizes))), _drawn(answers, next(iter(sizes))))


def _frames(path: Path) -> dict[str, Mapping[str, Any]]:
    try:
        document = json.loads(path.read_text())
        frames = document["frames"] if isinstance(document, dict) else document
        return {str(frame["name"]): frame for frame in frames}
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: expected Scalabel's JSON, a list of frames with names: {error}") from None


def _areas(path: Path, frame: Mapping[str, Any], classes: Sequence[str]) -> list[tuple[int, NDArray[np.bool_]]]:
    try:
        return [
            (classes.index(label["category"]), area_of_runs(label["rle"]["counts"], label["rle"]["size"]))
            for label in frame.get("labels") or ()
            if label.get("rle") is not None and label["category"] in classes
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: frame {frame['name']}: an area is not in COCO's runs: {error}") from None


def _drawn(areas: Sequence[tuple[int, NDArray[np.bool_]]], shape: tuple[int, ...]) -> Labels:
    labels = np.full(shape, IGNORED, np.int64)
    for number, area in areas:
        labels[area] = number
    return labels


def area_of_runs(counts: str, size: Sequence[int]) -> NDArray[np.bool_]:
    """Return the area (H, W) of COCO's compressed runs: pixels outside and inside in turn, column by column.

    A number has five bits a character, the lowest first, and from the fourth on is the difference to the last but one.

    Args:
        counts: the text.
        size: H and W.

    Raises:
        ValueError: the runs do not fill the picture.
    """
    height, width = (int(side) for side in size)
    lengths: list[int] = []
    value = shift = 0
    for character in counts.encode():
        digit = character - 48
        value |= (digit & 31) << shift
        shift += 5
        if digit & 32:
            continue
        value |= -1 << shift if digit & 16 else 0
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
        value = shift = 0
    if not 0 < height * width <= MAX_PIXELS or min(lengths, default=-1) < 0 or sum(lengths) != height * width:
        raise ValueError(f"runs over {sum(lengths)} pixels in a picture of {height} x {width}")
    inside = np.arange(len(lengths)) % 2 == 1
    return np.repeat(inside, lengths).reshape(width, height).T


__all__ = ["CITYSCAPES", "MaskPair", "area_of_runs", "read_mask_folders", "read_scalabel_masks"]
