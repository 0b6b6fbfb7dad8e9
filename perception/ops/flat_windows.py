"""Flattened windows: pillars sorted along snakes through windows, and cut into groups of equal size.

Liu et al., "FlatFormer: Flattened Window Attention for Efficient Point Cloud Transformer", CVPR 2023, section 3.2.
Reference mit-han-lab/flatformer, mmdet3d/models/middle_encoders/flatformer.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

ORDERS = ("x", "x_shift", "y", "y_shift")


@dataclass(frozen=True)
class FlatGroups:
    """How the pillars of a batch are cut into groups of G, whatever their order.

    Attributes:
        padded: (S * G,) position in the order, for each slot.
        first: (V,) the slot that holds each position for the first time.
    """

    padded: Tensor
    first: Tensor


def flat_groups(counts: Tensor, group: int) -> FlatGroups:
    """Cut samples of `counts` pillars, one after the other, into groups of their own.

    The empty slots of a sample's last group repeat what stands one group earlier, as published. Where a sample has less
    than one group, its pillars are repeated from the beginning (the published code reads beyond the sample there).
    """
    padded, first = [], []
    start = slots = 0
    for count in counts.tolist():
        if count == 0:
            continue
        total = -(-count // group) * group
        place = torch.arange(total)
        place[count:] = place[count:] - group if count >= group else place[count:] % count
        padded.append(place + start)
        first.append(torch.arange(count) + slots)
        start, slots = start + count, slots + total
    empty = torch.zeros(0, dtype=torch.int64)
    return FlatGroups(torch.cat([empty, *padded]), torch.cat([empty, *first]))


def flat_orders(coords: Tensor, grid: tuple[int, int], window: tuple[int, int], shift: tuple[int, int]) -> Tensor:
    """Return (4, V) indices of the pillars in the four orders of `ORDERS`.

    Args:
        coords: (V, 4) batch, z, y, x; unique.
        grid: pillars along x and y.
        window: its sides along x and y.
        shift: by which windows move in the orders that end in `_shift`.
    """
    batch, _, y, x = coords.long().unbind(1)
    orders = []
    for moved in ((0, 0), shift):
        orders.append(torch.argsort(_key(batch, (x, y), grid, window, moved)))
        turned = (moved[1], moved[0])
        orders.append(torch.argsort(_key(batch, (y, x), grid[::-1], window[::-1], turned)))
    return torch.stack([orders[0], orders[2], orders[1], orders[3]])


def _key(
    batch: Tensor, place: tuple[Tensor, Tensor], grid: tuple[int, int], window: tuple[int, int], shift: tuple[int, int]
) -> Tensor:
    """Return keys of a snake over the windows, rows of the second axis, with a snake in each window."""
    (a, b), (m2, n2) = place, (2 * window[0], 2 * window[1])
    across = 2 * (-(-grid[0] // window[0]) + 1)
    down = 2 * (-(-grid[1] // window[1]) + 1)
    a1, a2 = (a + shift[0]) // window[0], (a + shift[0]) % window[0]
    b1, b2 = (b + shift[1]) // window[1], (b + shift[1]) % window[1]
    outer, inner = 1 - 2 * (b1 % 2), 1 - 2 * (a2 % 2)
    key = (across * b1 + outer * a1) * (m2 * n2) + outer * (n2 * a2 + inner * b2)
    beyond = (across + 1) * (down + 1) * m2 * n2  # larger than any two keys of one sample are apart
    return key + batch * 2 * beyond


__all__ = ["ORDERS", "FlatGroups", "flat_groups", "flat_orders"]
