"""A picture in tiles of a network's own input size, for pictures whose detail must not be scaled away.

Pixels as in `perception.ops.image`. Tiles overlap; a pixel's class comes from the tile whose middle is nearest to it,
so that what a tile sees at its very edge, with half of its surroundings missing, is not used.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from perception.errors import ShapeError
from perception.ops.image import Letterbox, Normalization, Segmentation


@dataclass(frozen=True)
class Tiles:
    """Where the tiles of an image begin; sizes are (height, width).

    A side that is shorter than the input's is one tile, centred in the mean colour.
    """

    image_size: tuple[int, int]
    input_size: tuple[int, int]
    tops: tuple[int, ...]
    lefts: tuple[int, ...]

    @classmethod
    def of(cls, image_size: tuple[int, int], input_size: tuple[int, int], overlap_px: int = 64) -> Tiles:
        """Cover an image with as few tiles as overlap by at least `overlap_px`.

        Raises:
            ShapeError: no image, or the overlap is not smaller than a tile.
        """
        if min(image_size) < 1:
            raise ShapeError(f"an image of {image_size[0]} x {image_size[1]} pixels")
        if not 0 <= overlap_px < min(input_size):
            raise ShapeError(f"tiles of {input_size[0]} x {input_size[1]} pixels cannot overlap by {overlap_px}")
        tops, lefts = (_starts(side, tile, overlap_px) for side, tile in zip(image_size, input_size, strict=True))
        return cls(image_size, input_size, tops, lefts)

    def __len__(self) -> int:
        return len(self.tops) * len(self.lefts)

    def apply(self, image: NDArray[np.uint8], normalization: Normalization) -> Tensor:
        """Map an RGB image (H, W, 3) to the network's inputs (tiles, 3, *input_size), row by row.

        Raises:
            ShapeError: not uint8 of the image's size.
        """
        if image.shape != (*self.image_size, 3):
            raise ShapeError(f"image {image.shape}; expected {self.image_size} with 3 channels")
        height, width = self._letterbox.image_size
        return torch.cat(
            [
                self._letterbox.apply(image[top : top + height, left : left + width], normalization)
                for top, left in self._corners()
            ]
        )

    def segmented(
        self,
        logits: NDArray[np.float32],
        align_corners: bool = False,
        *,
        confidence: bool = False,
        entropy: bool = False,
    ) -> Segmentation:
        """Return the class of each pixel of the image from the logits (tiles, K, h, w) of all tiles.

        Raises:
            ShapeError: not (tiles, K, h, w).
        """
        if logits.ndim != 4 or len(logits) != len(self):
            raise ShapeError(f"logits {logits.shape}; expected those of {len(self)} tiles")
        whole = Segmentation(
            np.empty(self.image_size, np.uint8),
            np.empty(self.image_size, np.uint8) if confidence else None,
            np.empty(self.image_size, np.uint8) if entropy else None,
        )
        height, width = self._letterbox.image_size
        rows, columns = _owned(self.tops, height, self.image_size[0]), _owned(self.lefts, width, self.image_size[1])
        for index, (top, left) in enumerate(self._corners()):
            row, column = rows[index // len(self.lefts)], columns[index % len(self.lefts)]
            found = self._letterbox.segmented(logits[index], align_corners, confidence=confidence, entropy=entropy)
            inside = (slice(row.start - top, row.stop - top), slice(column.start - left, column.stop - left))
            for target, part in (
                (whole.label, found.label), (whole.confidence, found.confidence), (whole.entropy, found.entropy),
            ):  # fmt: skip
                if target is not None and part is not None:
                    target[row, column] = part[inside]
        return whole

    @property
    def _letterbox(self) -> Letterbox:
        """How one tile lies in the input: at its own scale."""
        height, width = (min(side, tile) for side, tile in zip(self.image_size, self.input_size, strict=True))
        offset = ((self.input_size[0] - height) // 2, (self.input_size[1] - width) // 2)
        return Letterbox((height, width), self.input_size, (height, width), offset)

    def _corners(self) -> Iterator[tuple[int, int]]:
        return ((top, left) for top in self.tops for left in self.lefts)


def _starts(side: int, tile: int, overlap: int) -> tuple[int, ...]:
    """Return where the tiles of one side begin, spread evenly."""
    if side <= tile:
        return (0,)
    count = -(-(side - overlap) // (tile - overlap))
    return tuple(round(index * (side - tile) / (count - 1)) for index in range(count))


def _owned(starts: tuple[int, ...], tile: int, side: int) -> list[slice]:
    """Return the pixels of one side that each tile answers for: up to the middle of each overlap."""
    edges = [(left + tile + right) // 2 for left, right in itertools.pairwise(starts)]
    return [slice(first, last) for first, last in zip([0, *edges], [*edges, side], strict=True)]


__all__ = ["Tiles"]
