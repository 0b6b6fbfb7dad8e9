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


def flat_groups(counts: Tensor, group: int, *, beyond: bool = False) -> FlatGroups:
    """Cut samples of `counts` pillars, one after the other, into groups of their own.

    The empty slots of a sample's last group repeat what stands one group earlier, as published. Where a sample has less
    than one group, its pillars are repeated from the beginning; with `beyond`, as the published code does it, the
    slots of the sample before are repeated instead, moved by the padding so far (of the first sample it fails).
    """
    padded: list[Tensor] = []
    first: list[Tensor] = []
    start = slots = 0
    for count in counts.tolist():
        if count == 0:
            continue
        total = -(-count // group) * group
        place = torch.arange(total, device=counts.device)
        if count >= group:
            place[count:] -= group
        elif beyond and slots:
            place[count:] = torch.cat(padded)[slots - group + count :] - slots
        else:
            place[count:] %= count
        padded.append(place + start)
        first.append(torch.arange(slots, slots + count, device=counts.device))
        start, slots = start + count, slots + total
    empty = counts.new_zeros(0)
    return FlatGroups(torch.cat([empty, *padded]) % max(start, 1), torch.cat([empty, *first]))


def flat_orders(
    coords: Tensor,
    grid: tuple[int, int],
    window: tuple[int, int],
    shift: tuple[int, int],
    batch_step: int | None = None,
) -> Tensor:
    """Return (4, V) indices of the pillars in the four orders of `ORDERS`.

    Args:
        coords: (V, 4) batch, z, y, x; unique.
        grid: pillars along x and y.
        window: its sides along x and y.
        shift: by which windows move in the orders that end in `_shift`.
        batch_step: how far apart the keys of samples are; by default far enough. The published code takes ten times
            the pillars of the grid, which mixes samples on small grids (32 x 32, for instance).
    """
    batch, _, y, x = coords.long().unbind(1)
    step = _largest_span(grid, window) if batch_step is None else batch_step
    orders = []
    for moved in ((0, 0), shift):
        orders.append(torch.argsort(_key((x, y), grid, window, moved) + batch * step))
        turned = (moved[1], moved[0])
        orders.append(torch.argsort(_key((y, x), grid[::-1], window[::-1], turned) + batch * step))
    return torch.stack([orders[0], orders[2], orders[1], orders[3]])


def _key(
    place: tuple[Tensor, Tensor], grid: tuple[int, int], window: tuple[int, int], shift: tuple[int, int]
) -> Tensor:
    """Return keys of a snake over the windows, rows of the second axis, with a snake in each window."""
    (a, b), (m2, n2) = place, (2 * window[0], 2 * window[1])
    across = _across(grid[0], window[0])
    a1, a2 = (a + shift[0]) // window[0], (a + shift[0]) % window[0]
    b1, b2 = (b + shift[1]) // window[1], (b + shift[1]) % window[1]
    outer, inner = 1 - 2 * (b1 % 2), 1 - 2 * (a2 % 2)
    return (across * b1 + outer * a1) * (m2 * n2) + outer * (n2 * a2 + inner * b2)


def _across(pillars: int, window: int) -> int:
    return 2 * (-(-pillars // window) + 1)


def _largest_span(grid: tuple[int, int], window: tuple[int, int]) -> int:
    """Return more than any two keys of one sample are apart."""
    sides = [_across(pillars, side) + 1 for pillars, side in zip(grid, window, strict=True)]
    return 2 * sides[0] * sides[1] * 4 * window[0] * window[1]


__all__ = ["ORDERS", "FlatGroups", "flat_groups", "flat_orders"]
