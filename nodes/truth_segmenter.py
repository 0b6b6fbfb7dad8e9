"""Give the simulator's true classes of pixels in place of a network.

in:  truth, masks `truth/<camera>/mask` of one or several cameras.
out: mask, one topic per camera, as `image_segmenter` gives.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from perception.messages import Message, SegmentationMask, derived
from perception.runtime.node import Node, On, Out


class TruthSegmenter(Node):
    """Stands in for `image_segmenter`."""

    truth = On[SegmentationMask](keep="all")
    mask = Out[SegmentationMask](per="truth")

    def on_truth(self, truth: SegmentationMask) -> Iterator[tuple[str, Message]]:
        camera = truth.header.frame_id.removesuffix("_optical")
        yield f"mask/{camera}", msgspec.structs.replace(truth, header=derived(truth.header))
