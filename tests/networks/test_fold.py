"""Folding batch normalisation changes nothing but the number of layers."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

from perception.engines.engine import pinned
from perception.engines.export import export_onnx
from perception.networks.ddrnet import DDRNET_COMPACT, DDRNet
from perception.networks.fold import folded
from perception.networks.p2at import P2AT, P2AT_COMPACT
from perception.networks.weights import fill


@pytest.mark.parametrize("network", [DDRNet(DDRNET_COMPACT), P2AT(P2AT_COMPACT)], ids=["ddrnet", "p2at"])
def test_a_folded_network_gives_the_same_logits(network: nn.Module) -> None:
    fill(network)
    network.eval()
    image = torch.rand(2, 3, 61, 93, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected, got = network(image), folded(network)(image)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4 * float(expected.std()))


def test_no_normalisation_is_left_behind_a_convolution() -> None:
    network = folded(DDRNet(DDRNET_COMPACT).eval())
    modules = dict(network.named_modules())
    inputs = [
        type(modules[node.args[0].target])
        for node in network.graph.nodes
        if node.op == "call_module" and isinstance(modules[node.target], nn.BatchNorm2d)
        if node.args[0].op == "call_module"
    ]
    assert nn.Conv2d not in inputs
    left = sum(isinstance(module, nn.BatchNorm2d) for module in modules.values())
    assert left == 12  # before a convolution: 11 in the pooling, 1 in the head


def test_an_exported_graph_has_no_normalisation_behind_a_convolution(tmp_path: Path) -> None:
    network = DDRNet(DDRNET_COMPACT).eval()
    fill(network)
    part = pinned(network.parts()["segment"], {"batch": 1, "height": 64, "width": 96})
    export_onnx(part, tmp_path / "graph.onnx")
    graph = onnx.load(tmp_path / "graph.onnx").graph
    convolutions = {output for node in graph.node if node.op_type == "Conv" for output in node.output}
    normalised = {node.input[0] for node in graph.node if node.op_type == "BatchNormalization"}
    assert not convolutions & normalised
