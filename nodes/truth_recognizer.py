"""Give the simulator's true action in place of a network on events.

in:  action, the simulator's `truth/action`.
out: recognition, what the person in the cabin does, over the newest part of it.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from pydantic import Field

from perception.messages import Recognition, derived
from perception.runtime.node import Node, NodeConfig, On, Out


class TruthRecognizerConfig(NodeConfig):
    """Settings of the recogniser."""

    window_ms: Annotated[float, Field(gt=0)] = 1000.0
    """The answer is about at most so much time before its stamp."""


class TruthRecognizer(Node):
    """Stands in for a recogniser of actions."""

    Config = TruthRecognizerConfig
    action = On[Recognition]()
    recognition = Out[Recognition]()

    def __init__(self, config: TruthRecognizerConfig | None = None) -> None:
        super().__init__(config or TruthRecognizerConfig())

    def on_action(self, action: Recognition) -> Recognition:
        begin_ns = max(action.t_begin_ns, action.t_end_ns - round(self.config.window_ms * 1e6))
        return msgspec.structs.replace(action, header=derived(action.header), t_begin_ns=begin_ns)
