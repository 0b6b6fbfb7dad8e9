"""Give every pixel of camera pictures a class.

in:  image, pictures of one or several cameras, of any size.
out: mask, one topic per camera, in the picture's size and with its stamp.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

import msgspec
from pydantic import Field

from perception.errors import WeightsError
from perception.messages import Image, Message, ModelId, SegmentationMask
from perception.networks.address import WeightsAddress
from perception.nodes._contract import UNTRAINED
from perception.nodes._pictures import rgb_of
from perception.runtime.node import Node, NodeConfig, NodeSetup, On, Out

if TYPE_CHECKING:
    from perception.networks.card import Card
    from perception.networks.part import RunPart


class ImageSegmenterConfig(NodeConfig):
    """Settings of the segmenter."""

    weights: WeightsAddress
    """A DDRNet or P2AT."""
    engine: str = "auto"
    """auto, torch, onnxruntime or openvino."""
    precision: str = "fp32"
    """fp32, fp16 or bf16."""
    input_size: tuple[Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)]] | None = None
    """Height and width of the network's input; by default the card's. Pictures are letterboxed into it."""
    confidence: bool = False
    """Also give each pixel's confidence."""


class ImageSegmenter(Node):
    """One network for all cameras; each picture is a call, so that one bad picture removes only itself."""

    Config = ImageSegmenterConfig
    NETWORKS: ClassVar = ("ddrnet", "p2at")

    image = On[Image](keep="latest")
    mask = Out[SegmentationMask](per="image")

    @classmethod
    def create(cls, config: ImageSegmenterConfig, setup: NodeSetup) -> Self:
        from torch import nn, set_num_threads

        from perception.engines.choose import EngineSettings, compile_parts
        from perception.engines.engine import run_on
        from perception.networks.load import load_network

        set_num_threads(setup.threads)
        loaded = load_network(config.weights, nn.Module, *setup.search_folders[:1])
        if loaded.card.network not in cls.NETWORKS:
            raise WeightsError(
                f"'{config.weights}' is of {loaded.card.network}; this node drives {', '.join(cls.NETWORKS)}"
            )
        height, width = config.input_size or loaded.card.image.size
        axes = {"batch": 1, "height": height, "width": width}
        settings = EngineSettings(config.engine, config.precision, setup.threads, axes)  # type: ignore[arg-type]
        said: list[str] = []
        network: Any = loaded.network
        engines = compile_parts(network.parts(), settings, say=said.append)
        engine = next(iter(engines.values())).name
        model = ModelId(id=loaded.model_id, engine=engine, trained=not loaded.untrained)
        node = cls(config, loaded.card, run_on(engines), model, align_corners=network.ALIGN_CORNERS)
        node.degraded = (UNTRAINED,) if loaded.untrained else ()
        node.notes = tuple(said)
        return node

    def __init__(
        self, config: ImageSegmenterConfig, card: Card, run: RunPart, model: ModelId, *, align_corners: bool
    ) -> None:
        super().__init__(config)
        self.card, self.run, self.model, self.align_corners = card, run, model, align_corners
        self.size = config.input_size or card.image.size

    def warm_up(self) -> None:
        import numpy as np

        self._labelled(np.zeros((*self.size, 3), np.uint8))

    def on_image(self, image: Image) -> Iterator[tuple[str, Message]]:
        label, confidence = self._labelled(rgb_of(image))
        header = msgspec.structs.replace(
            image.header,
            models=(*image.header.models, self.model),
            degraded=image.header.degraded if self.model.trained else (*image.header.degraded, UNTRAINED),
        )
        mask = SegmentationMask(
            header=header, classes=self.card.class_names, label=label, confidence=confidence,
            identities=tuple(info.identity for info in self.card.classes),
        )  # fmt: skip
        yield f"mask/{image.header.frame_id.removesuffix('_optical')}", mask

    def _labelled(self, rgb: Any) -> tuple[Any, Any]:
        from perception.ops.image import Letterbox, Normalization

        contract = self.card.image
        letterbox = Letterbox.of(rgb.shape[:2], self.size)
        tensor = letterbox.apply(rgb, Normalization(contract.mean, contract.std))
        (logits,) = self.run("segment", {"image": tensor}).values()
        if self.config.confidence:
            return letterbox.labels_and_confidence(logits[0].numpy(), self.align_corners)
        return letterbox.labels(logits[0].numpy(), self.align_corners), None
