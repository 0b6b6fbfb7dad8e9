"""The segmenter with a network that is easy to follow: it says the class that the picture's red holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import simplejpeg
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor

from perception.messages import Header, Image, ModelId, SegmentationMask, host, mask_labels
from perception.messages.codec import decode, encode
from perception.networks.card import find_card
from perception.nodes.image_segmenter import ImageSegmenter, ImageSegmenterConfig
from perception.runtime.node import Drop, NodeSetup

CARD = find_card("ddrnet_compact")
STEP = 12
"""Red of class k is k times this."""


class RedSays:
    """Stands for the network: logits at stride 1 whose strongest class is in the red channel. Remembers its batches."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def runs(self, sizes: tuple[int, ...]) -> dict[int, Any]:
        return {size: self._for(size) for size in sizes}

    def _for(self, size: int) -> Any:
        def run(name: str, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
            image = inputs["image"]
            assert name == "segment"
            assert len(image) == size, "the engine is built for this size"
            self.batches.append(size)
            red = (image[:, 0] * CARD.image.std[0] + CARD.image.mean[0]) * 255 / STEP
            classes = torch.arange(19).view(1, 19, 1, 1)
            return {"logits": -(red[:, None] - classes).abs() * 4}

        return run


def segmenter(network: RedSays | None = None, **settings: Any) -> ImageSegmenter:
    config = ImageSegmenterConfig(weights="filled:ddrnet_compact", **{"input_size": (32, 64), **settings})
    runs = (network or RedSays()).runs(config.batch_sizes)
    return ImageSegmenter(config, CARD, runs, ModelId(id="red", engine="test", trained=True), align_corners=False)


def of_classes(classes: NDArray[Any], t_ns: int = 5, encoding: Any = "rgb8") -> Image:
    pixels = np.ascontiguousarray(np.repeat((classes * STEP).astype(np.uint8)[..., None], 3, axis=2))
    data: Any = pixels
    if encoding == "jpeg":
        data = np.frombuffer(simplejpeg.encode_jpeg(pixels, quality=100, colorspace="RGB"), np.uint8)
    height, width = classes.shape
    header = Header(frame_id="cam_optical", t_sensor_ns=t_ns)
    return Image(header=header, encoding=encoding, height_px=height, width_px=width, data=data)


def masks_of(node: ImageSegmenter, images: Mapping[str, Image]) -> dict[str, SegmentationMask]:
    found: dict[str, SegmentationMask] = {}
    for item in node.on_image(images):
        assert not isinstance(item, Drop), item
        assert isinstance(item[1], SegmentationMask)
        found[item[0]] = item[1]
    return found


HALVES = np.repeat([[2, 11]], 40, axis=1).repeat(60, axis=0)
"""60 x 80: class 2 on the left, class 11 on the right."""


@pytest.mark.parametrize("fit", ["letterbox", "tiles"])
@pytest.mark.parametrize("encoding", ["rgb8", "jpeg"])
def test_a_mask_has_the_pictures_size_and_its_classes_where_the_picture_has_them(fit: str, encoding: str) -> None:
    mask = masks_of(segmenter(fit=fit, overlap_px=8), {"cam": of_classes(HALVES, encoding=encoding)})["mask/cam"]
    label = mask_labels(mask)
    assert label.shape == (60, 80)
    assert (label[:, :39] == 2).all()
    assert (label[:, 41:] == 11).all()
    assert mask.identities[11] == "person"
    assert mask.header.t_sensor_ns == 5


def test_tiles_keep_what_a_letterbox_scales_away() -> None:
    stripes = np.zeros((64, 128), int)
    stripes[:, ::2] = 5  # as fine as pixels are
    tiles, box = (
        mask_labels(masks_of(segmenter(fit=fit, overlap_px=8), {"cam": of_classes(stripes)})["mask/cam"])
        for fit in ("tiles", "letterbox")
    )
    np.testing.assert_array_equal(tiles, stripes)
    assert (box != stripes).mean() > 0.4


def test_three_pictures_are_filled_up_to_the_four_that_the_engine_is_built_for() -> None:
    network = RedSays()
    node = segmenter(network, batch_sizes=(4, 1, 2))
    masks = masks_of(node, {f"cam{n}": of_classes(np.full((20, 30), n), t_ns=n) for n in range(3)})
    assert network.batches == [4]
    assert {name: (mask.header.t_sensor_ns, set(np.unique(mask_labels(mask)))) for name, mask in masks.items()} == {
        f"mask/cam{n}": (n, {n}) for n in range(3)
    }


def test_more_than_the_largest_batch_runs_in_several() -> None:
    network = RedSays()
    masks = masks_of(
        segmenter(network, batch_sizes=(1, 2)), {f"c{n}": of_classes(np.full((9, 9), n)) for n in range(5)}
    )
    assert network.batches == [2, 2, 1]
    assert [int(mask_labels(mask)[0, 0]) for mask in masks.values()] == [0, 1, 2, 3, 4]


def test_a_cut_picture_removes_only_itself() -> None:
    good, bad = of_classes(HALVES, encoding="jpeg"), of_classes(HALVES, encoding="jpeg")
    cut = Image(header=bad.header, encoding="jpeg", height_px=60, width_px=80, data=host(bad.data)[:100])
    items = list(segmenter(batch_sizes=(1, 2)).on_image({"left": good, "front": cut, "right": good}))
    drops = [item for item in items if isinstance(item, Drop)]
    assert [drop.sensor for drop in drops] == ["front"]
    assert "JPEG" in drops[0].reason
    assert [item[0] for item in items if not isinstance(item, Drop)] == ["mask/left", "mask/right"]


@pytest.mark.parametrize("size", [(0, 80), (60, 0), (61, 80)])
def test_a_picture_of_another_size_than_its_message_says_is_dropped(size: tuple[int, int]) -> None:
    image = of_classes(HALVES)
    other = Image(header=image.header, encoding="rgb8", height_px=size[0], width_px=size[1], data=image.data)
    (item,) = segmenter().on_image({"cam": other})
    assert isinstance(item, Drop)


def test_soft_outputs_come_only_where_they_are_asked_for() -> None:
    plain = masks_of(segmenter(), {"cam": of_classes(HALVES)})["mask/cam"]
    assert plain.confidence is None
    assert plain.entropy is None
    soft = masks_of(segmenter(confidence=True, entropy=True), {"cam": of_classes(HALVES)})["mask/cam"]
    # Logits fall by 4 for each class away from the true one: exp(-4), exp(-8), ... on both sides of it
    weights = np.exp(-4.0 * np.abs(np.arange(19) - 2))
    shares = weights / weights.sum()
    assert soft.confidence is not None
    assert soft.entropy is not None
    assert host(soft.confidence)[30, 5] == pytest.approx(255 * shares.max(), abs=1)
    assert host(soft.entropy)[30, 5] == pytest.approx(255 * -(shares * np.log(shares)).sum() / np.log(19), abs=1)


def test_a_mask_in_runs_is_small_on_the_wire_and_the_same_when_written_out() -> None:
    plain = masks_of(segmenter(), {"cam": of_classes(HALVES)})["mask/cam"]
    runs = masks_of(segmenter(run_length=True), {"cam": of_classes(HALVES)})["mask/cam"]
    received = decode(encode(runs).to_bytes())
    assert isinstance(received, SegmentationMask)
    np.testing.assert_array_equal(mask_labels(received), mask_labels(plain))
    assert len(encode(runs).to_bytes()) < len(encode(plain).to_bytes()) / 2


def test_a_real_network_runs_in_batches_and_says_that_it_is_untrained(tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("PERCEPTION_CACHE", str(tmp_path))
    config = ImageSegmenterConfig(
        weights="filled:ddrnet_compact", engine="torch", input_size=(64, 64), batch_sizes=(1, 2)
    )
    node = ImageSegmenter.create(config, NodeSetup("segmenter", None, {"image": ("cam/image",)}, (tmp_path,)))
    node.warm_up()
    image = of_classes(HALVES)
    masks = masks_of(node, {"a": image, "b": image, "c": image})
    np.testing.assert_array_equal(mask_labels(masks["mask/a"]), mask_labels(masks["mask/b"]))
    assert masks["mask/c"].header.models[0].trained is False
    assert node.degraded


def test_an_unknown_engine_is_the_users_mistake() -> None:
    with pytest.raises(ValidationError, match="'onnxruntime'"):
        ImageSegmenterConfig.model_validate({"weights": "filled:ddrnet_compact", "engine": "onnx"})
