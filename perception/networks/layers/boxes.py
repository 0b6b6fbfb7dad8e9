"""What every 3D detector gives: boxes in the house's convention."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Boxes3D:
    """N boxes of one sample, in the frame of the network's card.

    Attributes:
        center: (N, 3) geometric centre, metres.
        size: (N, 3) length, width, height.
        yaw: (N,) counter-clockwise from +x.
        score: (N,) 0 to 1.
        label: (N,) int64, index of the class.
        velocity: (N, 2) metres per second along x and y, or None.
    """

    center: Tensor
    size: Tensor
    yaw: Tensor
    score: Tensor
    label: Tensor
    velocity: Tensor | None = None

    def __len__(self) -> int:
        return len(self.score)

    def chosen(self, index: Tensor) -> Boxes3D:
        """Return the boxes at an index, (M,) int64, or under a mask, (N,)."""
        velocity = None if self.velocity is None else self.velocity[index]
        return Boxes3D(
            self.center[index], self.size[index], self.yaw[index], self.score[index], self.label[index], velocity
        )

    def cpu(self) -> Boxes3D:
        """Return them in the memory of the host."""
        velocity = None if self.velocity is None else self.velocity.cpu()
        return Boxes3D(self.center.cpu(), self.size.cpu(), self.yaw.cpu(), self.score.cpu(), self.label.cpu(), velocity)


__all__ = ["Boxes3D"]
