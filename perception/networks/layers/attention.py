"""Multi-head attention under the parameter names of `torch.nn.MultiheadAttention`.

Written out so that it can be exported, takes batch-first sequences of any rank-three shape, and computes in the
type of its input. The published DeepInteraction++ rounds queries, keys and values to float16 in its polar attention
(FlashAttention); this does not, like the published results recorded in float32.

Shapes     B batch, Q queries, S keys, C channels, h heads
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perception.ops.host_attention import PlacedRows, attended_in_sequences
from perception.ops.host_norms import normed_on_host
from perception.ops.host_products import linear_on_host, product_on_host
from perception.ops.host_sampling import may_round_otherwise

SHORT = 128
"""Keys up to which a sequence is attended to in compiled code on a host."""


class Attention(nn.Module):
    """Scaled dot-product attention with a fused input projection."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * channels, channels))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * channels))
        self.out_proj = nn.Linear(channels, channels)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attend.

        Args:
            query: (B, Q, C).
            key: (B, S, C).
            value: (B, S, C).
            mask: (B, Q, S) added to the logits of every head.

        Returns:
            (B, Q, C).
        """
        batch, queries, channels = query.shape
        short = key.shape[1] <= SHORT and key is value and mask is None
        if short and may_round_otherwise(query):
            return linear_on_host(self.out_proj, self._attended(query, key)).reshape(query.shape)
        q, k, v = (self._split(x) for x in self._projected(query, key, value))
        asked = None if mask is None else mask[:, None]
        if may_round_otherwise(query):  # torch attends faster in float32 there
            with torch.autocast("cpu", enabled=False):
                out = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), asked)
        else:
            out = F.scaled_dot_product_attention(q, k, v, asked)
        return self.out_proj(out.transpose(1, 2).reshape(batch, queries, channels))  # type: ignore[no-any-return]

    def _attended(self, query: Tensor, key: Tensor) -> Tensor:
        """Attend in short sequences on a host: (B * Q, C)."""
        weight, bias, channels = self.in_proj_weight, self.in_proj_bias, query.shape[2]
        parts = [(key, slice(None))] if query is key else [(query, slice(channels)), (key, slice(channels, None))]
        rows = [
            PlacedRows(
                product_on_host(x.flatten(0, 1), weight[part], bias[part]),
                np.arange(x[..., 0].numel()).reshape(x.shape[:2]),
            )
            for x, part in parts
        ]
        return attended_in_sequences(rows[0], rows[-1], self.heads)

    def _projected(self, query: Tensor, key: Tensor, value: Tensor) -> Sequence[Tensor]:
        weight, bias, channels = self.in_proj_weight, self.in_proj_bias, query.shape[2]
        if key is value and may_round_otherwise(query):  # in one product
            if query is key:
                return F.linear(query, weight, bias).chunk(3, -1)
            asked = F.linear(query, weight[:channels], bias[:channels])
            return asked, *F.linear(key, weight[channels:], bias[channels:]).chunk(2, -1)
        weights, biases = weight.reshape(3, channels, channels), bias.reshape(3, channels)
        return [F.linear(x, weights[i], biases[i]) for i, x in enumerate((query, key, value))]

    def _split(self, x: Tensor) -> Tensor:
        batch, length, channels = x.shape
        return x.reshape(batch, length, self.heads, channels // self.heads).transpose(1, 2)


class TransformerDecoderLayer(nn.Module):
    """Self attention, cross attention and a feed-forward network, each followed by its norm (post-norm)."""

    def __init__(self, channels: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.self_attn = Attention(channels, heads)
        self.multihead_attn = Attention(channels, heads)
        self.linear1, self.linear2 = nn.Linear(channels, hidden), nn.Linear(hidden, channels)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(channels) for _ in range(3))

    def forward(
        self, query: Tensor, memory: Tensor, query_position: Tensor | None = None, key_position: Tensor | None = None
    ) -> Tensor:
        """Decode queries (B, Q, C) against a memory (B, S, C); positions of the same shapes are added to both.

        The positions are added to the values, too, as TransFusion's decoder does.
        """

        def placed(x: Tensor, position: Tensor | None) -> Tensor:
            return x if position is None else x + position

        def normed(norm: nn.LayerNorm, x: Tensor, added: Tensor) -> Tensor:
            return normed_on_host(norm, x, added) if on_host else norm(x + added)

        on_host = may_round_otherwise(query)
        own = placed(query, query_position)
        query = normed(self.norm1, query, self.self_attn(own, own, own))
        keys = placed(memory, key_position)
        query = normed(self.norm2, query, self.multihead_attn(placed(query, query_position), keys, keys))
        return normed(self.norm3, query, self._fed(query, on_host))

    def _fed(self, query: Tensor, on_host: bool) -> Tensor:
        if not on_host:
            return self.linear2(self.linear1(query).relu())  # type: ignore[no-any-return]
        hidden = linear_on_host(self.linear1, query.flatten(0, 1), relu=True)
        return linear_on_host(self.linear2, hidden).reshape(query.shape)
