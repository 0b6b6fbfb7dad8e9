"""Give the simulator's true free space in place of an estimate.

in:  truth, the simulator's `truth/freespace`.
out: freespace, the same polygon.
"""

from __future__ import annotations

import msgspec

from perception.messages import FreeSpace, derived
from perception.runtime.node import Node, On, Out


class TruthFreeSpace(Node):
    """Stands in for a node that finds free space."""

    truth = On[FreeSpace]()
    freespace = Out[FreeSpace]()

    def on_truth(self, truth: FreeSpace) -> FreeSpace:
        return msgspec.structs.replace(truth, header=derived(truth.header))
