"""Give every pixel of camera pictures a class.

in:  image, pictures of one or several cameras, of any size. Live, a call takes what waits when the engine is free; in
     lockstep, the pictures of one stamp. A picture that cannot be read is dropped alone.
out: mask, one topic per camera, in the picture's size and with its stamp.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

import msgspec
from pydantic import Field, field_validator

from perception.engines.precision import EngineName, Precision
from perception.errors import PerceptionError, WeightsError
from perception.messages import Image, Message, ModelId, SegmentationMask, runs_of
from perception.networks.address import WeightsAddress
from perception.nodes._contract import UNTRAINED
from perception.nodes._pictures import rgb_of
from perception.runtime.node import Drop, Node, NodeConfig, NodeSetup, On, Out

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from perception.networks.card import Card
    from perception.networks.part import RunPart
    from perception.ops.image import Letterbox, Segmentation
    from perception.ops.tiles import Tiles

Pixels = Annotated[int, Field(gt=0)]


class ImageSegmenterConfig(NodeConfig):
    """Settings of the segmenter."""

    weights: WeightsAddress
    """A DDRNet or P2AT."""
    engine: EngineName = "auto"
    """The fastest that agrees (auto), or one by name."""
    precision: Precision = "fp32"
    """What the engine computes in; below fp32 it must still agree."""
    input_size: tuple[Pixels, Pixels] | None = None
    """Height and width of the network's input; by default the card's."""
    fit: Literal["letterbox", "tiles"] = "letterbox"
    """How pictures of another size meet the input: scaled into it, or cut into tiles of it at their own scale."""
    overlap_px: Annotated[int, Field(ge=0)] = 64
    """Of neighbouring tiles, at least."""
    batch_sizes: tuple[Annotated[int, Field(ge=1, le=8)], ...] = (1,)
    """How many pictures or tiles the engine takes at once: it is built for each of these numbers, and what waits is
    filled up to the next of them. Worth it where the engine is faster on batches: on a GPU, not on a CPU."""
    confidence: bool = False
    """Also give each pixel's confidence: the probability of its class."""
    entropy: bool = False
    """Also give each pixel's entropy over all classes: high where the network does not know."""
    run_length: bool = False
    """Give the labels in runs: a tenth of the bytes and less, written out by `perception.messages.mask_labels`."""

    @field_validator("batch_sizes")
    @classmethod
    def _one_is_needed(cls, sizes: tuple[int, ...]) -> tuple[int, ...]:
        if not sizes:
            raise ValueError("no size at all; expected for example [1, 2, 4]")
        return tuple(sorted(set(sizes)))


class ImageSegmenter(Node):
    """One network for all cameras."""

    Config = ImageSegmenterConfig
    NETWORKS: ClassVar = ("ddrnet", "p2at")

    image = On[Image](keep="latest", batch=True)
    mask = Out[SegmentationMask](per="image")

    @classmethod
    def create(cls, config: ImageSegmenterConfig, setup: NodeSetup) -> Self:
        from torch import nn, set_num_threads

        from perception.engines.choose import compile_parts, settings_of
        from perception.engines.engine import run_on
        from perception.networks.load import load_network

        set_num_threads(setup.threads)
        loaded = load_network(config.weights, nn.Module, *setup.search_folders[:1])
        if loaded.card.network not in cls.NETWORKS:
            raise WeightsError(
                f"'{config.weights}' is of {loaded.card.network}; this node drives {', '.join(cls.NETWORKS)}"
            )
        height, width = config.input_size or loaded.card.image.size
        said: dict[str, None] = {}
        network: Any = loaded.network
        runs: dict[int, RunPart] = {}
        for batch in config.batch_sizes:
            axes = {"batch": batch, "height": height, "width": width}
            settings = settings_of(config.engine, config.precision, setup.threads, axes)
            engines = compile_parts(network.parts(), settings, say=lambda text: said.update({text: None}))
            runs[batch] = run_on(engines)
        engine = next(iter(engines.values())).name
        model = ModelId(id=loaded.model_id, engine=engine, trained=not loaded.untrained)
        node = cls(config, loaded.card, runs, model, align_corners=network.align_corners)
        node.degraded = (UNTRAINED,) if loaded.untrained else ()
        node.notes = (*loaded.notes, *said)
        return node

    def __init__(
        self, config: ImageSegmenterConfig, card: Card, runs: Mapping[int, RunPart], model: ModelId, *,
        align_corners: bool,
    ) -> None:  # fmt: skip
        """`runs` holds what runs the network by the number of pictures that it takes."""
        super().__init__(config)
        self.card, self.runs, self.model, self.align_corners = card, runs, model, align_corners
        self.size = config.input_size or card.image.size

    def warm_up(self) -> None:
        import numpy as np

        picture = np.zeros((*self.size, 3), np.uint8)
        view = self._view(self.size)
        for batch in self.runs:
            logits = self._logits([self._input(view, picture)] * batch)
        self._segmented(view, logits)

    def on_image(self, images: Mapping[str, Image]) -> Iterator[tuple[str, Message] | Drop]:
        usable: list[tuple[str, Image, Letterbox | Tiles]] = []
        inputs: list[Tensor] = []
        for sensor, image in images.items():
            try:
                view = self._view((image.height_px, image.width_px))
                inputs.append(self._input(view, rgb_of(image, getattr(view, "inner_size", (0, 0)))))
            except PerceptionError as error:
                yield Drop(sensor, str(error))
                continue
            usable.append((sensor, image, view))
        if not usable:
            return
        logits, first = self._logits(inputs), 0
        for (sensor, image, view), tensor in zip(usable, inputs, strict=True):
            yield f"mask/{sensor}", self._mask(image, self._segmented(view, logits[first : first + len(tensor)]))
            first += len(tensor)

    def _view(self, image_size: tuple[int, int]) -> Letterbox | Tiles:
        from perception.ops.image import Letterbox
        from perception.ops.tiles import Tiles

        if self.config.fit == "tiles":
            return Tiles.of(image_size, self.size, self.config.overlap_px)
        return Letterbox.of(image_size, self.size)

    def _input(self, view: Letterbox | Tiles, rgb: NDArray[np.uint8]) -> Tensor:
        from perception.ops.image import Normalization

        return view.apply(rgb, Normalization(self.card.image.mean, self.card.image.std))

    def _logits(self, inputs: list[Tensor]) -> NDArray[np.float32]:
        """Run the engine on as many as it takes at once, the last run filled up to the next size that it is built for.

        Returns the logits of all, which are the node's own: an engine's outputs end with its next run.
        """
        import torch

        waiting = inputs[0] if len(inputs) == 1 else torch.cat(inputs)
        found: list[Tensor] = []
        while len(waiting):
            size = next((size for size in self.runs if size >= len(waiting)), max(self.runs))
            taken, waiting = waiting[:size], waiting[size:]
            count = len(taken)
            if count < size:
                taken = torch.cat((taken, taken.new_zeros(size - count, *taken.shape[1:])))
            (logits,) = self.runs[size]("segment", {"image": taken}).values()
            found.append(logits[:count].to("cpu", torch.float32, copy=True))
        return torch.cat(found).numpy()

    def _segmented(self, view: Letterbox | Tiles, logits: NDArray[np.float32]) -> Segmentation:
        from perception.ops.tiles import Tiles

        soft = {"confidence": self.config.confidence, "entropy": self.config.entropy}
        if isinstance(view, Tiles):
            return view.segmented(logits, self.align_corners, **soft)
        return view.segmented(logits[0], self.align_corners, **soft)

    def _mask(self, image: Image, found: Segmentation) -> SegmentationMask:
        header = msgspec.structs.replace(
            image.header,
            models=(*image.header.models, self.model),
            degraded=image.header.degraded if self.model.trained else (*image.header.degraded, UNTRAINED),
        )
        mask = SegmentationMask(
            header=header, classes=self.card.class_names, label=found.label, confidence=found.confidence,
            entropy=found.entropy, identities=tuple(info.identity for info in self.card.classes),
        )  # fmt: skip
        if not self.config.run_length:
            return mask
        height, width = found.label.shape
        label, length = runs_of(found.label)
        return msgspec.structs.replace(mask, label=label, run_length=length, height_px=height, width_px=width)
