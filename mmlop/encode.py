"""CLIP's two encoders with deep prompts: functions over open_clip's modules, which stay frozen and untouched.

Where the tokens go follows PromptSRC (Khattak et al., ICCV 2023). Text: ``SOS, p_1..p_n, name tokens, EOT``; the prompts of
layer 0 enter before the positional embedding is added, and rows 1..n are replaced before each later block. Images: the
prompts follow the patch tokens, after the positional embedding and before ``ln_pre``, and the last n rows are replaced
before each later block. Blocks beyond the prompts' depth carry the prompt rows on.

What is computed is the plain forward pass; what is *not* computed is everything that cannot reach the output:

- The text encoder is causal, so the rows SOS, p_1..p_n are the same for every class: they are computed once, and each
  class's own tokens attend to their keys and values.
- Tokens after EOT reach nothing. The classes' own tokens are kept packed, [T, d], and padded inside attention only.
- Only the class token (images) and EOT (text) leave the last block: it computes keys and values for all rows, the rest
  for that one.

Low-rank changes of the attention's projections (`Deltas`) are added to what the frozen projections give, with or without
prompts. None of the shortcuts depends on what the weights are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from mmlop.backbone import Backbone

MANY = 1000  # tokens of all class texts together (some 250 names) beyond which memory matters more than time


@dataclass(frozen=True, eq=False)
class Deltas:
    """Changes ``W + scale * B @ A`` of the query, key and value projections (0, 1 and 2) in all L blocks of one encoder.

    Several sets at once carry a leading dimension S: a batch of S takes one set each, a batch of k * S each set for k
    neighbours. A and ``scale * B`` are cast to the activations' type, as prompts are; what is trained stays in fp32.
    """

    A: Tensor  # [..., L, 3, r, d]
    B: Tensor  # [..., L, 3, d, r]
    scale: float = 1.0


Change = tuple[Tensor, Tensor] | None  # one block's A [S, 3, r, d] and scaled B [S, 3, d, r]


def encode_image(backbone: Backbone, images: Tensor, prompts: Tensor | None = None, deltas: Deltas | None = None) -> Tensor:
    """Image features [B, d], not normalised, as open_clip's ``encode_image`` gives without prompts and deltas.

    ``images`` [B, 3, H, W], normalised; ``prompts`` [J, n, d_v], or [B, J, n, d_v] with one set per image; ``deltas`` one
    set, or S sets, S being B or a divisor of it.

    Raises ValueError where the deltas do not fit the number of blocks or of images.
    """
    visual = backbone.visual
    blocks = list(visual.transformer.resblocks)
    dtype = visual.conv1.weight.dtype
    x = visual.conv1(images.to(dtype)).flatten(2).transpose(1, 2)  # [B, patches, d_v]
    x = torch.cat([visual.class_embedding.to(dtype).expand(len(x), 1, -1), x], dim=1)
    x = x + visual.positional_embedding.to(dtype)  # [B, 1 + patches, d_v]
    prompted = _batched(prompts, len(x), dtype)  # [B, J, n, d_v]
    depth, n = prompted.shape[1:3]
    if depth:
        x = torch.cat([x, prompted[:, 0]], dim=1)  # [B, 1 + patches + n, d_v]
    x = _norm(visual.ln_pre, x)
    changes = _changes(deltas, len(blocks), len(x), dtype)
    for index, (block, change) in enumerate(zip(blocks, changes, strict=True)):
        if 0 < index < depth:
            x = torch.cat([x[:, : x.shape[1] - n], prompted[:, index]], dim=1)
        normed = _norm(block.ln_1, x)
        if index == len(blocks) - 1:  # only the class token leaves
            x, query_rows = x[:, :1], normed[:, :1]
        else:
            query_rows = normed
        keys, values = _keys_values(block, normed, change)
        attended = _attend(_heads(block, _queries(block, query_rows, change)), keys, values)
        x = _finish(block, x, _merge(attended))
    pooled = _norm(visual.ln_post, x[:, 0])
    return _project(visual.proj, pooled)


def encode_text(
    backbone: Backbone, tokens: Tensor | Packing, prompts: Tensor | None = None, deltas: Deltas | None = None
) -> Tensor:
    """Text features, not normalised, as open_clip's ``encode_text`` gives without prompts and deltas.

    ``tokens`` [C, L] are whole token rows (SOS ... EOT, zeros) *without* room for prompts: the n prompt tokens are put
    behind SOS here. ``Packing(tokens, n)`` in their place does the bookkeeping once, where the same texts are encoded
    again and again. ``prompts`` [J, n, d_t] give [C, d]; several sets at once, [S, J, n, d_t], give [S, C, d]; so do
    ``deltas`` with S sets.

    Raises ValueError where tokens and prompts together are longer than the context (``Backbone.tokenize`` says which
    text), and where the deltas do not fit the number of blocks or of sets.
    """
    text = backbone.text
    blocks = list(text.transformer.resblocks)
    dtype = blocks[0].mlp.c_fc.weight.dtype
    leading = ((prompts, 4), (deltas.A if deltas else None, 5))  # with that many dimensions, they are several sets
    several = [len(x) for x, dimensions in leading if x is not None and x.dim() == dimensions]
    sets = max(several, default=1)
    prompted = _batched(prompts, sets, dtype)  # [S, J, n, d_t]
    depth, n = prompted.shape[1:3]
    packing = tokens if isinstance(tokens, Packing) else Packing(tokens, n)
    if packing.longest + n + 1 > len(text.positional_embedding):
        raise ValueError(f"{packing.longest + 1} tokens and {n} prompts exceed the context of {backbone.context_length}")

    position = text.positional_embedding.to(dtype)
    start = text.token_embedding(packing.start).to(dtype).expand(sets, 1, -1)  # SOS
    prefix = torch.cat([start, prompted[:, 0]], dim=1) if depth else start
    prefix = prefix + position[: n + 1]  # [S, 1 + n, d_t]
    own = text.token_embedding(packing.tokens).to(dtype) + position[packing.rows]  # [T, d_t]
    own = own.expand(sets, -1, -1)  # [S, T, d_t]

    changes = _changes(deltas, len(blocks), sets, dtype)
    for index, (block, change) in enumerate(zip(blocks, changes, strict=True)):
        if 0 < index < depth:
            prefix = torch.cat([prefix[:, :1], prompted[:, index]], dim=1)
        normed_prefix, normed_own = _norm(block.ln_1, prefix), _norm(block.ln_1, own)
        shared = _keys_values(block, normed_prefix, change)  # [S, H, 1 + n, d_h] each
        keys, values = _linear(block, normed_own, 1, 3, change).chunk(2, dim=-1)  # [S, T, d_t] each
        last = index == len(blocks) - 1
        if last:  # only EOT leaves
            own, normed_own = own[:, packing.ends], normed_own[:, packing.ends]  # [S, C, d_t]
        attended = _forgetful(packing.attend, block, _queries(block, normed_own, change), keys, values, *shared, last)
        many = len(packing.tokens) > MANY
        own = _forgetful(_finish, block, own, attended) if many else _finish(block, own, attended)
        if not last:
            attended = _attend(_heads(block, _queries(block, normed_prefix, change)), *shared, packing.prefix_mask(dtype))
            prefix = _finish(block, prefix, _merge(attended))

    features = _project(text.text_projection, _norm(text.ln_final, own))  # [S, C, d]
    return features if several else features[0]


class Packing:
    """Where each class's own tokens (behind SOS, up to EOT) lie: packed in [T], or padded as [C, Lmax]."""

    def __init__(self, tokens: Tensor, prompts: int) -> None:
        """``tokens`` [C, L]; the number of ``prompts`` says where in the sequence own tokens begin."""
        lengths = tokens.argmax(dim=1)  # EOT has the highest id; SOS is row 0, so this is the number of own tokens
        inside = torch.arange(tokens.shape[1] - 1, device=tokens.device) < lengths[:, None]  # [C, L - 1]
        self.classes, self.longest, self.first_row = len(tokens), int(lengths.max()), prompts + 1
        self.start = tokens[:1, 0]  # SOS
        self.tokens = tokens[:, 1:][inside]  # [T]
        self.ends = lengths.cumsum(0) - 1  # [C] where EOT lies in the packed rows
        self.lengths = lengths
        inside = inside[:, : self.longest]
        self.slots = inside.flatten().nonzero().squeeze(1)  # [T] where a token lies in the padded rows
        self.rows = self.slots % self.longest + self.first_row  # [T] position in the sequence

    def attend(
        self,
        block: Any,
        queries: Tensor,  # [S, T, d_t] of own tokens, or [S, C, d_t] of EOT alone
        keys: Tensor,  # [S, T, d_t]
        values: Tensor,  # [S, T, d_t]
        prefix_keys: Tensor,  # [S, H, 1 + n, d_h]
        prefix_values: Tensor,  # [S, H, 1 + n, d_h]
        only_end: bool,
    ) -> Tensor:
        """Attention, shaped as ``queries``, to the prefix and to what lies before in each class's own text."""
        sets = len(keys)
        keys = self._behind(prefix_keys, _heads(block, self._pad(keys)))  # [S * C, H, 1 + n + Lmax, d_h]
        values = self._behind(prefix_values, _heads(block, self._pad(values)))
        mask = self.mask(queries.dtype)
        if only_end:
            rows = queries.flatten(0, 1).unsqueeze(1)  # [S * C, 1, d_t]
            mask = mask[self.lengths - 1].repeat(sets, 1)[:, None, None]  # [S * C, 1, 1, 1 + n + Lmax]
            return _merge(_attend(_heads(block, rows), keys, values, mask)).view_as(queries)
        rows = self._pad(queries).flatten(0, 1)  # [S * C, Lmax, d_t]
        attended = _merge(_attend(_heads(block, rows), keys, values, mask))
        return attended.reshape(sets, self.classes * self.longest, -1)[:, self.slots]

    def mask(self, dtype: torch.dtype) -> Tensor:
        """Additive causal mask [Lmax, 1 + n + Lmax]: the whole prefix, and own tokens up to the query's. A real token
        never sees padding, which lies behind it."""
        return F.pad(self._causal(self.longest, dtype), (self.first_row, 0))

    def prefix_mask(self, dtype: torch.dtype) -> Tensor:
        """The same among the rows SOS, p_1..p_n, [1 + n, 1 + n]."""
        return self._causal(self.first_row, dtype)

    def _causal(self, rows: int, dtype: torch.dtype) -> Tensor:
        return torch.full((rows, rows), -torch.inf, dtype=dtype, device=self.slots.device).triu(1)

    def _pad(self, packed: Tensor) -> Tensor:  # [S, T, d] -> [S, C, Lmax, d]
        padded = packed.new_zeros(len(packed), self.classes * self.longest, packed.shape[-1])
        return padded.index_copy(1, self.slots, packed).view(len(packed), self.classes, self.longest, -1)

    def _behind(self, prefix: Tensor, own: Tensor) -> Tensor:
        """Prefix keys [S, H, 1 + n, d_h] before each class's own [S, C, H, Lmax, d_h] -> [S * C, H, ..., d_h]."""
        shared = prefix.unsqueeze(1).expand(-1, self.classes, -1, -1, -1)
        return torch.cat([shared, own], dim=3).flatten(0, 1)


def _forgetful(function: Callable[..., Tensor], *arguments: Any) -> Tensor:
    """What ``function`` gives, with its intermediate results computed again for the gradient instead of kept. Of attention
    they are large (the padding) and cheap; of the rest they are worth the time only where there are many classes."""
    found: Tensor = checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)
    return found


def _attend(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Softmax attention [..., rows, d_h]. On a CPU torch's own is slow with a mask and, backwards, in bf16 (14 times)."""
    if queries.device.type != "cpu" or (mask is None and queries.dtype != torch.bfloat16):
        return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
    scores = queries * queries.shape[-1] ** -0.5 @ keys.mT
    if mask is not None:
        scores = scores + mask
    weights: Tensor = (scores if scores.dtype == torch.float64 else scores.float()).softmax(dim=-1)
    return weights.to(values.dtype) @ values


def _batched(prompts: Tensor | None, batch: int, dtype: torch.dtype) -> Tensor:
    """Prompts as [batch, J, n, d] (J = n = 0 for None)."""
    if prompts is None or 0 in prompts.shape[-3:-1]:
        return torch.empty(batch, 0, 0, 0)
    prompts = prompts.to(dtype)
    return prompts.expand(batch, -1, -1, -1) if prompts.dim() == 3 else prompts


def _changes(deltas: Deltas | None, blocks: int, batch: int, dtype: torch.dtype) -> list[Change]:
    """What the deltas change in each of the blocks."""
    if deltas is None:
        return [None] * blocks
    A, B = (x if x.dim() == 5 else x.unsqueeze(0) for x in (deltas.A, deltas.scale * deltas.B))  # [S, L, 3, ...]
    if A.shape[1] != blocks or batch % len(A):
        raise ValueError(f"{len(A)} sets of deltas for {A.shape[1]} blocks do not fit {batch} inputs to {blocks} blocks")
    return list(zip(A.to(dtype).unbind(1), B.to(dtype).unbind(1), strict=True))


def _norm(norm: nn.Module, x: Tensor) -> Tensor:
    """Layer norm in the precision of its weights (fp32 under bf16 and fp16), back in that of x."""
    if isinstance(norm, nn.Identity):  # a tower without ln_pre
        return x
    norm = cast(nn.LayerNorm, norm)
    normed = F.layer_norm(x.to(norm.weight.dtype), norm.normalized_shape, norm.weight, norm.bias, norm.eps)
    return normed.to(x.dtype)


def _linear(block: Any, normed: Tensor, start: int, stop: int, change: Change) -> Tensor:
    """Queries, keys and values are parts 0, 1 and 2 of one matrix in ``nn.MultiheadAttention``."""
    width = normed.shape[-1]
    rows = slice(start * width, stop * width)
    frozen: Tensor = F.linear(normed, block.attn.in_proj_weight[rows], block.attn.in_proj_bias[rows])
    if change is None:
        return frozen
    A, B = (x[:, start:stop] for x in change)  # [S, parts, r, d], [S, parts, d, r]
    inner = normed.reshape(len(A), -1, width) @ A.flatten(1, 2).mT  # [S, rows, parts * r]
    changed: Tensor = inner.unflatten(-1, A.shape[1:3]).transpose(1, 2) @ B.mT  # [S, parts, rows, d]
    return frozen + changed.transpose(1, 2).reshape(frozen.shape)


def _queries(block: Any, normed: Tensor, change: Change) -> Tensor:
    return _linear(block, normed, 0, 1, change)


def _keys_values(block: Any, normed: Tensor, change: Change) -> tuple[Tensor, Tensor]:
    keys, values = _linear(block, normed, 1, 3, change).chunk(2, dim=-1)
    return _heads(block, keys), _heads(block, values)


def _heads(block: Any, x: Tensor) -> Tensor:  # [..., rows, d] -> [..., H, rows, d_h]
    split: Tensor = x.unflatten(-1, (block.attn.num_heads, -1))
    return split.transpose(-3, -2)


def _merge(x: Tensor) -> Tensor:  # [..., H, rows, d_h] -> [..., rows, d]
    return x.transpose(-3, -2).flatten(-2)


def _finish(block: Any, x: Tensor, attended: Tensor) -> Tensor:
    """The rest of a residual block, after attention."""
    x = x + block.ls_1(block.attn.out_proj(attended))
    return x + cast(Tensor, block.ls_2(block.mlp(_norm(block.ln_2, x))))


def _project(projection: Any, x: Tensor) -> Tensor:
    if projection is None:
        return x
    return cast(Tensor, projection(x)) if isinstance(projection, nn.Linear) else x @ projection
