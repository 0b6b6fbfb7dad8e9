"""Every part can live on a GPU: nothing in it stays on the host, and what is to be a CUDA graph fetches nothing."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from perception.networks.load import load_network
from perception.networks.part import Part
from perception.ops import host_sampling

CARDS = (
    "ddrnet_compact", "p2at_compact", "dsvt_compact", "flatformer_compact", "deepinteraction_compact",
    "egoposeformer_compact", "estf_compact",
)  # fmt: skip
DEPENDS_ON_VALUES = {"sparse_encoder"}
"""Parts whose eager steps depend on the data: they run without a graph in torch."""

_FETCHES = {
    "new_tensor", "tensor", "as_tensor", "tolist", "item", "__bool__", "__int__", "__float__", "nonzero", "unique",
    "masked_select", "argwhere", "cpu", "numpy",
}  # fmt: skip


class Fetches(TorchFunctionMode):
    """Notes the torch calls that move numbers between host and device, or wait for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        indices = args[1] if name in ("__getitem__", "__setitem__") else ()
        by_list = any(
            isinstance(index, list) or (isinstance(index, Tensor) and index.dtype == torch.bool)
            for index in (indices if isinstance(indices, tuple) else (indices,))
        )
        if name in _FETCHES or by_list:
            self.found.add(name)
        return func(*args, **(kwargs or {}))


def parts_of(card: str) -> Mapping[str, Part]:
    network: Any = load_network(f"filled:{card}", nn.Module).network
    return network.parts()  # type: ignore[no-any-return]


@pytest.mark.parametrize("card", CARDS)
def test_every_part_runs_on_another_device_and_fits_a_cuda_graph(card: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_sampling, "COMPILED", False)  # a host's own way, which a device never goes
    parts = {name: part for name, part in parts_of(card).items() if name not in DEPENDS_ON_VALUES}
    if card == "dsvt_compact":
        parts["transfusion"] = parts_of("dsvt_nuscenes")["decoder"]  # the other of its heads
    for name, part in parts.items():
        example = part.example()
        with torch.inference_mode():
            part.module(*example)  # constants are made in the first run, as before a capture
            with Fetches() as fetches:
                part.module(*example)
            assert not fetches.found, f"{card}.{name}"
            moved = copy.deepcopy(part.module).to("meta")
            outputs = moved(*(tensor.to("meta") for tensor in example))
        for output in (outputs,) if isinstance(outputs, Tensor) else outputs:
            assert output.device.type == "meta", f"{card}.{name}"
