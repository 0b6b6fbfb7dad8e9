"""Windows of voxels, and sets of equal size inside each window.

Wang et al., "DSVT: Dynamic Sparse Voxel Transformer with Rotated Sets", CVPR 2023, section 3.2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class WindowSets:
    """One way to cut voxels into sets.

    Attributes:
        index: (2, S, T) voxel of each slot, for the order by y and the order by x; a voxel repeats only beside itself.
        first: (2, V) flat slot (set * T + slot) at which each voxel stands first.
        inside: (V, 3) z, y, x inside the voxel's window.
    """

    index: Tensor
    first: Tensor
    inside: Tensor

    @property
    def bias(self) -> Tensor:
        """(2, S, T) minus the logarithm of how often a slot's voxel stands in its set.

        Added to the scores of attention, it makes every voxel of a set count once.
        """
        other = torch.ones_like(self.index)  # than its left neighbour
        other[:, :, 1:] = (self.index[:, :, 1:] != self.index[:, :, :-1]).long()
        voxel = torch.cumsum(other, dim=2) - 1  # counted within the set
        times = torch.zeros_like(self.index).scatter_add_(2, voxel, torch.ones_like(self.index))
        return -times.gather(2, voxel).float().log()


def window_sets(
    coords: Tensor, grid: tuple[int, int, int], window: tuple[int, int, int], shift: tuple[int, int, int], set_size: int
) -> WindowSets:
    """Cut voxels into windows and windows into sets.

    Args:
        coords: (V, 4) batch, z, y, x.
        grid: voxels along x, y, z.
        window: of a window, along x, y, z.
        shift: of the windows, along x, y, z.
        set_size: T.
    """
    batch, z, y, x = coords.long().unbind(1)
    wx, wy, wz = window
    sx, sy, sz = (at + by for at, by in zip((x, y, z), shift, strict=True))
    across, along, up = (-(-size // side) + 1 for size, side in zip(grid, window, strict=True))
    number = ((batch * across + sx // wx) * along + sy // wy) * up + sz // wz
    inside = torch.stack((sz % wz, sy % wy, sx % wx), dim=1)
    _, number = torch.unique(number, return_inverse=True)
    windows = int(number.max()) + 1 if len(number) else 0
    held = torch.bincount(number, minlength=windows)
    slots = _slots(held, set_size)
    orders = []
    iz, iy, ix = inside.unbind(1)
    for major, minor, side in ((iy, ix, wx), (ix, iy, wy)):
        key = ((number * max(wx, wy) + major) * side + minor) * wz + iz
        orders.append(torch.argsort(key)[slots])
    index = torch.stack(orders)
    return WindowSets(index, _first_slots(index, len(coords)), inside)


def _slots(held: Tensor, set_size: int) -> Tensor:
    """Return (S, T): which voxel, counted over all windows in order, each slot holds (Eq. 3 of the paper)."""
    sets = -(-held // set_size)
    start = torch.cumsum(held, 0) - held
    window = torch.repeat_interleave(sets)
    first_set = torch.cumsum(sets, 0) - sets
    number = torch.arange(len(window), device=held.device) - first_set[window]
    slot = number.unsqueeze(1) * set_size + torch.arange(set_size, device=held.device)
    share = slot.double() * held[window].double().unsqueeze(1) / (sets[window] * set_size).double().unsqueeze(1)
    return torch.floor(share).long() + start[window].unsqueeze(1)


def _first_slots(index: Tensor, voxels: int) -> Tensor:
    """Return (2, V): the first flat slot of each voxel."""
    flat = index.flatten(1)
    places = torch.arange(flat.shape[1], device=flat.device).expand_as(flat)
    first = torch.full((2, voxels), flat.shape[1], dtype=torch.long, device=flat.device)
    return first.scatter_reduce_(1, flat, places, reduce="amin")


__all__ = ["WindowSets", "window_sets"]
