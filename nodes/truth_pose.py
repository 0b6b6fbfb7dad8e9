"""Give the simulator's true skeleton in place of a pose network.

in:  skeletons, the simulator's `truth/skeleton`.
out: skeleton, the same, in the optical frame of the left camera, UnrealEgo's 16 joints.
"""

from __future__ import annotations

import msgspec

from perception.messages import Pose3D, derived
from perception.runtime.node import Node, On, Out


class TruthPose(Node):
    """Stands in for a pose estimator on the worn stereo pair."""

    skeletons = On[Pose3D]()
    skeleton = Out[Pose3D]()

    def on_skeletons(self, skeletons: Pose3D) -> Pose3D:
        return msgspec.structs.replace(skeletons, header=derived(skeletons.header))
