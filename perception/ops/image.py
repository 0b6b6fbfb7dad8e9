"""Images in and masks out: decode, fit into a network's input, normalise; and the exact way back for the mask.

Pixels: the centre of pixel (row, column) lies at (row + 0.5, column + 0.5), the image spans (0, 0) to (H, W).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numba
import numpy as np
import simplejpeg
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from perception.errors import ShapeError


@dataclass(frozen=True)
class Normalization:
    """Mean and standard deviation of red, green and blue that the weights were trained on; 1 is full scale."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def jpeg_size(data: bytes | memoryview) -> tuple[int, int]:
    """Return (height, width) of a JPEG, from its header alone; ShapeError where it has none."""
    try:
        height, width, *_ = simplejpeg.decode_jpeg_header(data)
    except ValueError as error:
        raise ShapeError(f"not a JPEG image: {error}") from error
    return int(height), int(width)


def decoded_jpeg(data: bytes | memoryview, at_least: tuple[int, int] = (0, 0)) -> NDArray[np.uint8]:
    """Decode a JPEG to RGB (H, W, 3).

    Args:
        data: the whole file.
        at_least: (height, width); the decoder takes the smallest of its own scales (1, 1/2, 1/4, 1/8) that reaches
            both, which costs a fraction of the full size. (0, 0) decodes in full.

    Raises:
        ShapeError: the bytes are no JPEG, or are cut off.
    """
    height, width = at_least
    try:
        return simplejpeg.decode_jpeg(data, "RGB", min_height=height, min_width=width)  # type: ignore[no-any-return]
    except ValueError as error:
        raise ShapeError(f"not a whole JPEG image: {error}") from error


def normalised(image: NDArray[np.uint8], normalization: Normalization) -> Tensor:
    """Map RGB uint8 (B, H, W, 3) to float32 (B, 3, H, W): over 255, minus the mean, over the deviation."""
    batch, height, width, _ = image.shape
    out = np.empty((batch, 3, height, width), np.float32)
    for index in range(batch):
        _look_up(_read_only(image[index]), _table(normalization), out[index], 0, 0)
    return torch.from_numpy(out)


@lru_cache(maxsize=16)
def _table(normalization: Normalization) -> NDArray[np.float32]:
    """Return the normalised value of each channel and byte, (3, 256): a byte has only 256 of them."""
    mean, std = (np.array(values, np.float32)[:, None] for values in (normalization.mean, normalization.std))
    table: NDArray[np.float32] = (np.arange(256, dtype=np.float32) / np.float32(255) - mean) / std
    return table


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _look_up(
    image: NDArray[np.uint8], table: NDArray[np.float32], out: NDArray[np.float32], top: int, left: int
) -> None:
    for row in range(image.shape[0]):
        for channel in range(3):
            for column in range(image.shape[1]):
                out[channel, top + row, left + column] = table[channel, image[row, column, channel]]


def _read_only(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a contiguous read-only view: numba compiles once more for every other kind of array."""
    view = np.ascontiguousarray(image).view()
    view.flags.writeable = False
    return view


@dataclass(frozen=True)
class Segmentation:
    """What a network says of each pixel of an image, uint8 (H, W) each."""

    label: NDArray[np.uint8]
    confidence: NDArray[np.uint8] | None = None
    """Softmax probability of the class: 255 is certain."""
    entropy: NDArray[np.uint8] | None = None
    """Of the softmax: 0 is one class alone, 255 is all classes alike."""


@dataclass(frozen=True)
class Letterbox:
    """How an image of any size lies in a network's input: scaled without distortion, centred, the rest filled.

    `image_size` and `input_size` are (height, width); `inner_size` is the scaled image, which begins at `offset`
    (top, left) in the input.
    """

    image_size: tuple[int, int]
    input_size: tuple[int, int]
    inner_size: tuple[int, int]
    offset: tuple[int, int]

    @classmethod
    def of(cls, image_size: tuple[int, int], input_size: tuple[int, int]) -> Letterbox:
        """Fit an image into an input, as large as it goes."""
        if min(image_size) < 1:
            raise ShapeError(f"an image of {image_size[0]} x {image_size[1]} pixels")
        scale = min(input_size[0] / image_size[0], input_size[1] / image_size[1])
        height, width = (
            min(max(round(side * scale), 1), most) for side, most in zip(image_size, input_size, strict=True)
        )
        offset = ((input_size[0] - height) // 2, (input_size[1] - width) // 2)
        return cls(image_size, input_size, (height, width), offset)

    def apply(self, image: NDArray[np.uint8], normalization: Normalization) -> Tensor:
        """Map an RGB image (H, W, 3) to the network's input (1, 3, *input_size); around it lies the mean colour, 0.

        `image` may be smaller than `image_size`, as a JPEG decoded at reduced size is: it stands for the same field of
        view.

        Raises:
            ShapeError: not (H, W, 3) uint8.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or min(image.shape) < 1:
            raise ShapeError(f"image {image.shape} {image.dtype}; expected (H, W, 3) uint8")
        if image.shape[:2] != self.inner_size:
            pixels = torch.from_numpy(np.require(image, requirements=["C", "W"])).permute(2, 0, 1)[None]
            resized = F.interpolate(pixels, size=self.inner_size, mode="bilinear", antialias=True)
            image = resized[0].permute(1, 2, 0).numpy()
        filled = np.empty if self.inner_size == self.input_size else np.zeros
        out = filled((3, *self.input_size), np.float32)
        _look_up(_read_only(image), _table(normalization), out, *self.offset)
        return torch.from_numpy(out[None])

    def segmented(
        self,
        logits: NDArray[np.float32],
        align_corners: bool = False,
        *,
        confidence: bool = False,
        entropy: bool = False,
    ) -> Segmentation:
        """Return the class of each pixel of the image from logits (K, h, w) that span the whole input.

        The logits are interpolated at each pixel's own place, so that edges are as sharp as the network drew them;
        taking the class first and enlarging that would leave steps.

        Raises:
            ShapeError: not (K, h, w) of 1 to 255 classes.
        """
        if logits.ndim != 3 or min(logits.shape) < 1 or logits.shape[0] > 255:
            raise ShapeError(f"logits {logits.shape}; expected (K, h, w) of 1 to 255 classes")
        rows = self._places(0, logits.shape[1], align_corners)
        columns = self._places(1, logits.shape[2], align_corners)
        labels = np.empty(self.image_size, np.uint8)
        certain = np.empty(self.image_size if confidence else (0, 0), np.uint8)
        spread = np.empty(self.image_size if entropy else (0, 0), np.uint8)
        channels_last = np.ascontiguousarray(logits.transpose(1, 2, 0), np.float32)
        _label_pixels(channels_last, channels_last.argmax(2), *rows, *columns, labels, certain, spread)
        return Segmentation(labels, certain if confidence else None, spread if entropy else None)

    def _places(self, axis: int, cells: int, align_corners: bool) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return for each pixel of one axis the logit cell before its centre, and how far it lies towards the next."""
        pixels, inner, whole = self.image_size[axis], self.inner_size[axis], self.input_size[axis]
        place = (np.arange(pixels) + 0.5) * (inner / pixels) + self.offset[axis]  # in pixels of the input
        scale, shift = ((cells - 1) / max(whole - 1, 1), -0.5) if align_corners else (cells / whole, 0.0)
        place = (place + shift) * scale - (0.0 if align_corners else 0.5)
        place = np.clip(place, 0, cells - 1)
        before = np.minimum(place.astype(np.int64), max(cells - 2, 0))
        return before, (place - before).astype(np.float32)


@numba.njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _label_pixels(
    logits: NDArray[np.float32],
    strongest: NDArray[np.int64],
    row_before: NDArray[np.int64],
    row_share: NDArray[np.float32],
    column_before: NDArray[np.int64],
    column_share: NDArray[np.float32],
    labels: NDArray[np.uint8],
    confidence: NDArray[np.uint8],
    entropy: NDArray[np.uint8],
) -> None:
    """Interpolate logits (h, w, K) at each pixel; write its class and, where arrays are given, what its softmax says.

    A class that is the strongest in all four cells around a pixel is the strongest between them, so inside an object
    nothing has to be interpolated. The full-size logits, 160 MB for Cityscapes, never exist.
    """
    height, width, classes = logits.shape
    values = np.empty(classes, np.float32)
    soft = confidence.size + entropy.size > 0
    largest = np.float32(np.log(classes)) if classes > 1 else np.float32(1)
    for row in range(labels.shape[0]):
        above, down = row_before[row], row_share[row]
        below = min(above + 1, height - 1)
        for column in range(labels.shape[1]):
            left, right_share = column_before[column], column_share[column]
            right = min(left + 1, width - 1)
            best = strongest[above, left]
            agreed = best == strongest[above, right] == strongest[below, left] == strongest[below, right]
            if agreed and not soft:
                labels[row, column] = best
                continue
            for k in range(classes):
                upper = (1 - right_share) * logits[above, left, k] + right_share * logits[above, right, k]
                lower = (1 - right_share) * logits[below, left, k] + right_share * logits[below, right, k]
                values[k] = (1 - down) * upper + down * lower
            best = values.argmax()
            labels[row, column] = best
            if not soft:
                continue
            total, weighted = np.float32(0), np.float32(0)
            for k in range(classes):
                below_best = values[k] - values[best]
                share = np.exp(below_best)
                total += share
                weighted += share * below_best
            if confidence.size:
                confidence[row, column] = np.uint8(np.rint(255 / total))
            if entropy.size:  # of p = share / total: log(total) - sum(p * below_best)
                bits = (np.log(total) - weighted / total) / largest
                entropy[row, column] = np.uint8(np.rint(255 * min(max(bits, np.float32(0)), np.float32(1))))
