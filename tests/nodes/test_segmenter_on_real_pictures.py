"""CamVid and Cityscapes through both segmentation networks, and what the way back costs at real boundaries."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image as Pillow

from perception.evaluation.segmentation import Confusion
from perception.messages import Header, Image, SegmentationMask, mask_labels
from perception.networks.card import find_card
from perception.nodes.image_segmenter import ImageSegmenter, ImageSegmenterConfig
from perception.ops.image import Letterbox, Normalization, decoded_jpeg
from perception.runtime.node import Drop, NodeSetup

UNLABELLED = 11
CAMVID = find_card("ddrnet23_slim_camvid").class_names


def png(file: Path, t_ns: int = 0) -> Image:
    with Pillow.open(file) as picture:
        width, height = picture.size
    data = np.frombuffer(file.read_bytes(), np.uint8)
    header = Header(frame_id="cam_optical", t_sensor_ns=t_ns)
    return Image(header=header, encoding="png", height_px=height, width_px=width, data=data)


@cache
def segmenter(card: str, fit: Any) -> ImageSegmenter:
    config = ImageSegmenterConfig(
        weights=f"filled:{card}", engine="torch", input_size=(128, 256), fit=fit, overlap_px=16, batch_sizes=(1, 4)
    )
    return ImageSegmenter.create(config, NodeSetup("segmenter", None, {}, ()))


def masks(node: ImageSegmenter, images: Mapping[str, Image]) -> list[SegmentationMask]:
    found = []
    for item in node.on_image(images):
        assert not isinstance(item, Drop), item
        assert isinstance(item[1], SegmentationMask)
        found.append(item[1])
    return found


@pytest.mark.parametrize("card", ["ddrnet_compact", "p2at_compact"])
def test_camvid_pictures_come_back_as_masks_of_their_size_under_their_own_stamps(card: str, data_folder: Path) -> None:
    files = sorted((data_folder / "camvid" / "images").glob("*.png"))
    images = {file.stem: png(file, t_ns) for t_ns, file in enumerate(files)}
    found = masks(segmenter(card, "letterbox"), images)
    assert [mask.header.t_sensor_ns for mask in found] == list(range(6))
    assert {mask_labels(mask).shape for mask in found} == {(360, 480)}
    assert all(len(np.unique(mask_labels(mask))) > 1 for mask in found)


@pytest.mark.parametrize("card", ["ddrnet_compact", "p2at_compact"])
@pytest.mark.parametrize("fit", ["letterbox", "tiles"])
def test_a_cityscapes_picture_gives_a_mask_of_its_full_size(card: str, fit: str, data_folder: Path) -> None:
    image = png(data_folder / "cityscapes" / "frankfurt_000000_003025_leftImg8bit.png")
    (mask,) = masks(segmenter(card, fit), {"cam": image})
    label = mask_labels(mask)
    assert label.shape == (1024, 2048)
    assert len(np.unique(label)) > 1


def test_a_jpeg_decoded_at_an_eighth_stands_for_the_whole_picture(data_folder: Path) -> None:
    with Pillow.open(data_folder / "cityscapes" / "frankfurt_000000_003025_leftImg8bit.png") as picture:
        pixels = np.ascontiguousarray(picture.convert("RGB"))
    box = Letterbox.of((1024, 2048), (128, 256))
    small = decoded_jpeg(simplejpeg.encode_jpeg(pixels, quality=98, colorspace="RGB"), box.inner_size)
    assert small.shape == (128, 256, 3)
    unscaled = Normalization((0, 0, 0), (1, 1, 1))
    difference = (box.apply(small, unscaled) - box.apply(pixels, unscaled)).abs() * 255
    assert difference.mean() < 3  # of 255: the decoder averages squares, the resizer weighs by distance


def test_masks_enlarged_by_their_logits_keep_real_boundaries_better_than_enlarged_classes(data_folder: Path) -> None:
    by_logits, by_classes = Confusion(len(CAMVID), ignored=UNLABELLED), Confusion(len(CAMVID), ignored=UNLABELLED)
    for file in sorted((data_folder / "camvid" / "labels").glob("*.png")):
        truth: NDArray[np.uint8] = np.asarray(Pillow.open(file))
        one_hot = F.one_hot(torch.from_numpy(truth.astype(np.int64)), 12)[..., :11].permute(2, 0, 1).float()
        logits = F.avg_pool2d(one_hot[None], 8)  # what a perfect network of stride 8 could say
        found = Letterbox.of(truth.shape, truth.shape).segmented(logits[0].numpy()).label
        by_logits.add(truth, found)
        steps = logits.argmax(1, keepdim=True).float()
        by_classes.add(truth, F.interpolate(steps, size=truth.shape)[0, 0].numpy().astype(np.uint8))
    assert by_logits.scores().mean_iou > by_classes.scores().mean_iou + 0.03
    assert by_logits.scores().mean_iou > 0.75
