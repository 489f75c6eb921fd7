"""The plain training step that ours is compared with: prompted CLIP as one would write it first.

All 77 rows of every class pass through every block, no row is shared between classes, and open_clip's residual blocks are
called as they are. Nothing here is tuned, in either direction.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from mmlop.backbone import Backbone


def encode_image(backbone: Backbone, images: Tensor, prompts: Tensor) -> Tensor:
    """Features [B, d] of images [B, 3, H, W]; prompts [B, J, n, d_v], one set per image."""
    visual, n = backbone.visual, prompts.shape[2]
    x = visual.conv1(images).flatten(2).transpose(1, 2)
    x = torch.cat([visual.class_embedding.expand(len(x), 1, -1), x], dim=1) + visual.positional_embedding
    x = visual.ln_pre(torch.cat([x, prompts[:, 0]], dim=1))  # [B, 1 + patches + n, d_v]
    for layer, block in enumerate(visual.transformer.resblocks):
        if 0 < layer < prompts.shape[1]:
            x = torch.cat([x[:, : x.shape[1] - n], prompts[:, layer]], dim=1)
        x = block(x)
    return cast(Tensor, visual.ln_post(x)[:, 0] @ visual.proj)


def encode_text(backbone: Backbone, tokens: Tensor, prompts: Tensor) -> Tensor:
    """Features [C, d] of tokens [C, context] with n placeholders behind SOS; prompts [J, n, d_t]."""
    text, n = backbone.text, prompts.shape[1]
    x = text.token_embedding(tokens)  # [C, context, d_t]
    shared = prompts[:, None].expand(-1, len(tokens), -1, -1)
    x = torch.cat([x[:, :1], shared[0], x[:, 1 + n :]], dim=1) + text.positional_embedding
    for layer, block in enumerate(text.transformer.resblocks):
        if 0 < layer < len(prompts):
            x = torch.cat([x[:, :1], shared[layer], x[:, 1 + n :]], dim=1)
        x = block(x, attn_mask=text.attn_mask)
    return cast(Tensor, text.ln_final(x)[torch.arange(len(x)), tokens.argmax(dim=1)] @ text.text_projection)


def with_placeholders(tokens: Tensor, n: int, context: int) -> Tensor:
    """Token rows [C, L] with n placeholder tokens behind SOS, filled up to the context: [C, context]."""
    holes = tokens.new_full((len(tokens), n), 343)  # any word but EOT; its embedding is replaced
    row = torch.cat([tokens[:, :1], holes, tokens[:, 1:]], dim=1)
    return torch.cat([row, row.new_zeros(len(row), context - row.shape[1])], dim=1)
