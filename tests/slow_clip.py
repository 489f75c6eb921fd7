"""The slow, obvious reference: prompted CLIP with all tokens, every row in every block, nothing shared.

Written against open_clip's own residual blocks, which it calls as they are. It takes none of the shortcuts of
`mmlop.encode`, but it can take any one of them, in its most obvious form, so that each can be proven on its own:

- PREFIX: the rows SOS, p_1..p_n of all classes are those of the first class, computed without what follows them.
- PADDING: each class is encoded by itself, cut behind its EOT.
- LAST_BLOCK: the last block is asked for the row that leaves alone.

These switches set it apart from `mmlop.bench.reference`, the plain step of the benchmark; a test holds the two to agree.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mmlop.backbone import Backbone
from mmlop.bench.reference import with_placeholders

__all__ = ["LAST_BLOCK", "PADDING", "PREFIX", "encode_image", "encode_text", "with_placeholders"]

PREFIX, PADDING, LAST_BLOCK = "prefix", "padding", "last block"


def encode_image(backbone: Backbone, images: Tensor, prompts: Tensor, shortcut: str | None = None) -> Tensor:
    """images [B, 3, H, W]; prompts [B, J, n, d_v], one set per image."""
    visual, n = backbone.visual, prompts.shape[2]
    blocks = visual.transformer.resblocks
    x = visual.conv1(images).flatten(2).transpose(1, 2)
    x = torch.cat([visual.class_embedding.expand(len(x), 1, -1), x], dim=1) + visual.positional_embedding
    x = visual.ln_pre(torch.cat([x, prompts[:, 0]], dim=1))
    for layer, block in enumerate(blocks):
        if 0 < layer < prompts.shape[1]:
            x = torch.cat([x[:, : x.shape[1] - n], prompts[:, layer]], dim=1)
        x = one_row(block, x, 0) if shortcut == LAST_BLOCK and layer == len(blocks) - 1 else block(x)
    features: Tensor = visual.ln_post(x)[:, 0] @ visual.proj
    return features


def encode_text(backbone: Backbone, tokens: Tensor, prompts: Tensor, shortcut: str | None = None) -> Tensor:
    """tokens [C, context] with n placeholders behind SOS; prompts [J, n, d_t]."""
    ends = tokens.argmax(dim=1)
    if shortcut == PADDING:
        cut = [row[None, : end + 1] for row, end in zip(tokens, ends.tolist(), strict=True)]
        return torch.cat([encode_text(backbone, row, prompts) for row in cut])
    text, n = backbone.text, prompts.shape[1]
    blocks, rows = text.transformer.resblocks, tokens.shape[1]
    mask = text.attn_mask[:rows, :rows]
    x = text.token_embedding(tokens)
    shared = prompts[:, None].expand(-1, len(tokens), -1, -1)
    x = torch.cat([x[:, :1], shared[0], x[:, 1 + n :]], dim=1) + text.positional_embedding[:rows]
    for layer, block in enumerate(blocks):
        if 0 < layer < len(prompts):
            x = torch.cat([x[:, :1], shared[layer], x[:, 1 + n :]], dim=1)
        if shortcut == LAST_BLOCK and layer == len(blocks) - 1:
            leaving = [one_row(block, one[None], end, mask) for one, end in zip(x, ends.tolist(), strict=True)]
            x, ends = torch.cat(leaving), torch.zeros_like(ends)
        elif shortcut == PREFIX:
            prefix = block(x[:1, : 1 + n], attn_mask=mask[: 1 + n, : 1 + n])
            x = torch.cat([prefix.expand(len(x), -1, -1), block(x, attn_mask=mask)[:, 1 + n :]], dim=1)
        else:
            x = block(x, attn_mask=mask)
    features: Tensor = text.ln_final(x)[torch.arange(len(x)), ends] @ text.text_projection
    return features


def one_row(block: Any, x: Tensor, row: int, mask: Tensor | None = None) -> Tensor:
    """What a residual block makes of one row of x [B, rows, d], which attends to them all: [B, 1, d]."""
    asking, normed = x[:, row : row + 1], block.ln_1(x)
    seen = None if mask is None else mask[row : row + 1]
    out: Tensor = asking + block.ls_1(block.attention(block.ln_1(asking), normed, normed, attn_mask=seen))
    return out.add(block.ls_2(block.mlp(block.ln_2(out))))
