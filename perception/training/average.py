"""A moving average of weights, which generalises better than the last ones (Polyak averaging)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class MovingAverage:
    """The exponential average of a network's floats, statistics of norms included; counters are taken as they are."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.state = {name: value.detach().clone() for name, value in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Take in the weights after a step; the first steps count more, so that the beginning is forgotten."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in network.state_dict().items():
            if value.is_floating_point():
                self.state[name].lerp_(value, 1 - decay)
            else:
                self.state[name].copy_(value)

    def copy_to(self, network: nn.Module) -> None:
        """Put the average into a network."""
        network.load_state_dict(self.state)

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a stored average."""
        for name, value in self.state.items():
            value.copy_(state[name])


__all__ = ["MovingAverage"]
