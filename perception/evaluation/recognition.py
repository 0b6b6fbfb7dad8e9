"""Top-1 and top-5 accuracy of recognisers, over all and as the mean over classes, and who is taken for whom."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class RecognitionScores:
    """Scores over clips.

    Attributes:
        top1: the share of clips whose best class is right.
        top5: the share whose five best classes hold the right one.
        mean_class_top1: the mean over classes of their own top-1, so that rare classes count alike.
        by_class: top-1 by true class.
        confusion: clips by (true class, best class); "" is no answer.
        num_clips: clips of the truth; one without an answer counts as wrong.
    """

    top1: float
    top5: float
    mean_class_top1: float
    by_class: Mapping[str, float]
    confusion: Mapping[tuple[str, str], int]
    num_clips: int


def evaluate(truth: Mapping[str, str], results: Mapping[str, Sequence[str]]) -> RecognitionScores:
    """Score recognitions.

    Args:
        truth: class by clip; at least one.
        results: classes by clip, best first.
    """
    answers = {clip: list(results.get(clip, ())) for clip in truth}
    first = {clip: (answer or [""])[0] for clip, answer in answers.items()}
    clips = Counter(truth.values())
    right = Counter(name for clip, name in truth.items() if first[clip] == name)
    by_class = {name: right[name] / count for name, count in sorted(clips.items())}
    return RecognitionScores(
        top1=sum(right.values()) / len(truth),
        top5=sum(name in answers[clip][:5] for clip, name in truth.items()) / len(truth),
        mean_class_top1=sum(by_class.values()) / len(by_class),
        by_class=by_class,
        confusion=Counter((name, first[clip]) for clip, name in truth.items()),
        num_clips=len(truth),
    )


__all__ = ["RecognitionScores", "evaluate"]
