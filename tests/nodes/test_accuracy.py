"""The figures that the screen shows while a graph runs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from perception.messages import Header, SegmentationMask
from perception.nodes.accuracy import Accuracy, AccuracyConfig

SECOND_NS = 1_000_000_000
TRUE = np.array([[0, 0], [1, 1]], np.uint8)
WRONG = np.array([[0, 1], [1, 1]], np.uint8)


def mask(label: NDArray[np.uint8], t_s: float) -> SegmentationMask:
    header = Header(frame_id="cam_front_optical", t_sensor_ns=round(t_s * SECOND_NS), seq=0)
    return SegmentationMask(header=header, classes=("road", "car"), label=label, identities=("road", "car"))


def fed(node: Accuracy, seconds: list[int], label: NDArray[np.uint8]) -> Accuracy:
    for t_s in seconds:
        node.on_true_masks(mask(TRUE, t_s))
        node.on_masks({"segmenter/cam_front": mask(label, t_s)})
    return node


def test_the_figure_is_that_of_the_masks_so_far() -> None:
    # By hand: of road one of two pixels, nothing more; of car both and one too many. (1/2 + 2/3) / 2.
    node = fed(Accuracy(AccuracyConfig(every_s=2)), [1, 2, 3], WRONG)
    assert node.notes == ("segmenter/cam_front: mIoU 0.583 over 3 instants",)


def test_only_the_window_counts() -> None:
    node = fed(Accuracy(AccuracyConfig(window_s=3, every_s=1)), [1, 2, 3], WRONG)
    assert fed(node, [10, 11, 12], TRUE).notes == ("segmenter/cam_front: mIoU 1.000 over 3 instants",)


def test_what_has_no_truth_has_no_figure() -> None:
    node = Accuracy(AccuracyConfig(every_s=1))
    for t_s in (1, 2, 3):
        node.on_masks({"segmenter/cam_front": mask(TRUE, t_s)})
    assert node.notes == ()


def test_after_a_reset_nothing_of_the_past_counts() -> None:
    node = fed(Accuracy(AccuracyConfig(every_s=1)), [1, 2, 3], WRONG)
    node.reset("seek")
    assert node.notes == ()
    assert fed(node, [1, 2, 3], TRUE).notes == ("segmenter/cam_front: mIoU 1.000 over 3 instants",)
