"""Mini-CLIP: an ordinary open_clip model of 1.7 M parameters, shipped with the package.

Captions of the mini world use a few hundred of CLIP's 49 408 tokens. Only the embeddings of those are stored, in half
precision, which keeps the file below 4 MB; loading fills in the rest with zeros.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any, cast

import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg, set_model_preprocess_cfg
from open_clip.tokenizer import SimpleTokenizer
from safetensors import safe_open
from safetensors.torch import save_file

from mmlop.data.mini.objects import SIDE
from mmlop.data.mini.world import phrases
from mmlop.errors import MmlopError
from mmlop.files import replacing, write_json

WEIGHTS = Path(__file__).parent / "weights"
CONTEXT = 32  # tokens; the longest caption has 24
CLIP_VOCABULARY = 49408

MODEL: dict[str, Any] = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": SIDE, "layers": 6, "width": 128, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": CONTEXT, "vocab_size": CLIP_VOCABULARY, "layers": 4, "width": 96, "heads": 3},
    "quick_gelu": False,
}
# Plain halves and quarters: the world has no natural-image statistics to match.
PREPROCESS: dict[str, Any] = {
    "size": SIDE,
    "mean": [0.5, 0.5, 0.5],
    "std": [0.25, 0.25, 0.25],
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}

_EMBEDDING = "token_embedding.weight"
_VOCABULARY = "vocabulary"


def tokenizer() -> SimpleTokenizer:
    """CLIP's own tokenizer, cut to mini-CLIP's context length."""
    return SimpleTokenizer(context_length=CONTEXT)


def vocabulary() -> list[int]:
    """The sorted token ids that captions of the mini world can contain, the padding 0 included."""
    return sorted(set(tokenizer()(phrases()).flatten().tolist()))


def build(model: dict[str, Any], vocab_size: int | None = None) -> CLIP:
    """An untrained CLIP from a `model_cfg`; `vocab_size` replaces the number of token embeddings."""
    text = CLIPTextCfg(**model["text_cfg"])
    if vocab_size is not None:
        text.vocab_size = vocab_size
    vision = CLIPVisionCfg(**model["vision_cfg"])
    return CLIP(model["embed_dim"], vision, text, quick_gelu=model.get("quick_gelu", False))


def save(model: CLIP, folder: Path, known: list[int], config: dict[str, Any], provenance: dict[str, Any]) -> None:
    """Writes the shipped folder: `open_clip_config.json`, `model.safetensors` and `provenance.json`.

    Args:
        model: a CLIP whose i-th token embedding belongs to token `known[i]`.
        folder: made if missing; each file takes the place of the old one when it is complete.
        known: the sorted ids of the tokens kept.
        config: the full model's `model_cfg`, with CLIP's vocabulary size.
        provenance: how the weights came to be; numbers, strings and nested mappings of them.

    Raises:
        ValueError: if the model does not have one embedding per known token.
    """
    rows = model.token_embedding.num_embeddings
    if rows != len(known):
        raise ValueError(f"the model embeds {rows} tokens but {len(known)} token ids were given")
    tensors = {name: value.detach().half().contiguous() for name, value in model.state_dict().items()}
    tensors[_VOCABULARY] = torch.tensor(known, dtype=torch.int32)
    with replacing(folder / "model.safetensors") as beside:
        save_file(tensors, beside, metadata={"format": "pt"})
        beside.chmod(0o644)  # safetensors makes files for their owner only; these are shipped
    write_json(folder / "open_clip_config.json", {"model_cfg": config, "preprocess_cfg": PREPROCESS})
    write_json(folder / "provenance.json", provenance)


def load(folder: Path = WEIGHTS) -> CLIP:
    """Mini-CLIP in evaluation mode and fp32, with CLIP's whole vocabulary (rows it has never seen are zero).

    Raises:
        MmlopError: if the folder lacks a file; the message says how to make it.
        RuntimeError: if the weights do not fit the configuration beside them.
    """
    for name in ("open_clip_config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise MmlopError(f"{folder / name} is missing: reinstall the package or run `mmlop mini pretrain`")
    config = json.loads((folder / "open_clip_config.json").read_text(encoding="utf-8"))
    model = build(config["model_cfg"])
    set_model_preprocess_cfg(model, config["preprocess_cfg"])
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    known = state.pop(_VOCABULARY).long()
    rows = torch.zeros(model.token_embedding.weight.shape)  # [49408, width]
    rows[known] = state[_EMBEDDING].float()
    state[_EMBEDDING] = rows
    model.load_state_dict({name: value.float() for name, value in state.items()})
    return cast(CLIP, model.eval())


@cache
def known_tokens(folder: Path = WEIGHTS) -> frozenset[int]:
    """The token ids that the shipped weights have embeddings for; any other token is a row of zeros."""
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        return frozenset(file.get_tensor(_VOCABULARY).tolist())
