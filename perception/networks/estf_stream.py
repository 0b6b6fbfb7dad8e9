"""ESTF on a stream: each image passes the stem once, however many clips it is part of.

Nearly all of a clip's cost lies in the stem, which sees one image at a time; its tokens (17 KB an image) are kept, and
a clip is put together from them. The result is that of the whole clip, up to rounding (batches of another size).
"""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor

from perception.errors import ShapeError
from perception.networks.estf import ESTF
from perception.networks.part import RunPart

PUBLISHED_STRIDE = 5
"""HARDVS takes every fifth image of a recording."""


class ClipStream:
    """The last images of one stream, or of one tracked object, as tokens."""

    def __init__(self, network: ESTF, run: RunPart, stride: int = PUBLISHED_STRIDE) -> None:
        """Start without images.

        Args:
            network: whose preparation and clip length are used.
            run: runs the network's parts.
            stride: images from one member of the clip to the next.

        Raises:
            ShapeError: a stride below 1.
        """
        if stride < 1:
            raise ShapeError(f"a clip that takes every {stride}th image; expected 1 or more")
        self._network, self._run, self._stride = network, run, stride
        self._tokens: deque[tuple[Tensor, Tensor]] = deque(maxlen=(network.config.clip_len - 1) * stride + 1)

    def __len__(self) -> int:
        """Images held: at most those that a clip spans."""
        return len(self._tokens)

    @property
    def full(self) -> bool:
        """Whether the clip needs no image twice."""
        return len(self._tokens) == self._tokens.maxlen

    def add(self, image: Tensor) -> None:
        """Take the next image (3, H, W), mean subtracted.

        Raises:
            ShapeError: another number of axes or colours.
        """
        if image.ndim != 3 or image.shape[0] != 3:
            raise ShapeError(f"an image of shape {tuple(image.shape)}; expected (3, H, W)")
        outputs = self._run("image_tokens", {"image": self._network.prepared_images(image.unsqueeze(0))})
        # The outputs belong to the engine until its next run: what lives longer is copied.
        self._tokens.append((outputs["temporal"][0].clone(), outputs["spatial"][0].clone()))

    def logits(self) -> Tensor:
        """Return (K,) for the clip that ends with the newest image.

        While the stream is shorter than a clip, its images are repeated from the first one, as published for short
        recordings.

        Raises:
            ShapeError: no image was added yet.
        """
        if not self._tokens:
            raise ShapeError("the clip holds no image yet")
        taken = list(self._tokens)[:: -self._stride][::-1]
        clip = [taken[step % len(taken)] for step in range(self._network.config.clip_len)]
        outputs = self._run(
            "clip",
            {
                "temporal": torch.stack([temporal for temporal, _ in clip]).unsqueeze(0),
                "spatial": torch.stack([spatial for _, spatial in clip]).unsqueeze(0),
            },
        )
        return outputs["logits"][0].clone()

    def clear(self) -> None:
        """Forget all images: after a seek, a gap in time, or the end of a track."""
        self._tokens.clear()
