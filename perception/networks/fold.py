"""Fold batch normalisation into the convolution before it: the same numbers, one layer less each time."""

from __future__ import annotations

import copy

from torch import nn
from torch.fx import GraphModule, symbolic_trace
from torch.nn.utils.fusion import fuse_conv_bn_eval


def folded(network: nn.Module) -> GraphModule:
    """Return a copy of a network in evaluation mode, each BatchNorm2d that alone reads a Conv2d folded into it.

    A normalisation before a convolution, as in pyramid pooling and heads, has a ReLU between and stays.
    """
    traced = symbolic_trace(copy.deepcopy(network))
    modules = dict(traced.named_modules())
    for node in list(traced.graph.nodes):
        before = node.args[0] if node.op == "call_module" and node.args else None
        if before is None or before.op != "call_module" or len(before.users) > 1:
            continue
        convolution, normalisation = modules[before.target], modules[node.target]
        if isinstance(convolution, nn.Conv2d) and isinstance(normalisation, nn.BatchNorm2d):
            traced.set_submodule(before.target, fuse_conv_bn_eval(convolution, normalisation))
            node.replace_all_uses_with(before)
            traced.graph.erase_node(node)
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced


__all__ = ["folded"]
