"""Frozen CLIP backbones: loading an open_clip model, checking that prompts fit into it, and its fingerprint."""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import open_clip
import torch
from open_clip.model import convert_weights_to_lp, get_model_preprocess_cfg, resize_pos_embed
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn

from mmlop.errors import MmlopError, listing

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes the model's input; stored in every adapter."""

    size: int  # pixels, square
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"
    resize_mode: str = "shortest"  # shorter side to `size`, then the centre


@dataclass(frozen=True, eq=False)
class Backbone:
    """A frozen CLIP with what is needed to prompt it. All dimensions are read from the model."""

    name: str  # open_clip architecture, "mini", or a local folder
    weights: str  # pretrained tag, file, or "shipped"
    model: nn.Module = field(repr=False)
    tokenizer: SimpleTokenizer = field(repr=False)
    preprocessing: Preprocessing
    fingerprint: str  # of the weights as loaded, before any cast to lower precision
    precision: str = "fp32"
    known_tokens: frozenset[int] | None = field(default=None, repr=False)  # None: the whole vocabulary

    @property
    def visual(self) -> Any:
        return self.model.visual

    @property
    def text(self) -> Any:
        """The module that holds the text encoder's parts (open_clip keeps them on the model itself or in `.text`)."""
        return self.model if hasattr(self.model, "token_embedding") else self.model.text

    @property
    def vision_layers(self) -> int:
        return len(self.visual.transformer.resblocks)

    @property
    def text_layers(self) -> int:
        return len(self.text.transformer.resblocks)

    @property
    def vision_width(self) -> int:
        return cast(int, self.visual.class_embedding.shape[-1])

    @property
    def text_width(self) -> int:
        return cast(int, self.text.token_embedding.weight.shape[-1])

    @property
    def embed_dim(self) -> int:
        return int(self.visual.output_dim)

    @property
    def context_length(self) -> int:
        return len(self.text.positional_embedding)

    @cached_property
    def logit_scale(self) -> float:
        """tau, the factor on cosine similarities (100 for OpenAI's models)."""
        return float(cast(Tensor, self.model.logit_scale).detach().double().exp())

    @property
    def identity(self) -> list[Any]:
        """What decides its frozen features beside the input: weights, their type as computed with, activation, heads."""
        blocks = (self.visual.transformer.resblocks[0], self.text.transformer.resblocks[0])
        shapes = [[type(block.mlp.gelu).__name__, block.attn.num_heads] for block in blocks]
        dtypes = [str(self.visual.conv1.weight.dtype), str(self.text.token_embedding.weight.dtype)]
        return [self.name, self.fingerprint, self.precision, asdict(self.preprocessing), shapes, dtypes]

    @property
    def device(self) -> torch.device:
        return cast(torch.device, self.visual.conv1.weight.device)

    def tokenize(self, texts: Sequence[str], prompts: int = 0) -> Tensor:
        """Token rows [C, L], L being the longest of ``texts``, on the model's device.

        Raises MmlopError naming the text where one, with ``prompts`` tokens more, is longer than the context, or holds
        a word that the backbone never saw.
        """
        rows = [[self.tokenizer.sot_token_id, *self.tokenizer.encode(t), self.tokenizer.eot_token_id] for t in texts]
        for text, row in zip(texts, rows, strict=True):
            if len(row) + prompts > self.context_length:
                raise MmlopError(
                    f"'{text}' has {len(row)} tokens and {prompts} prompt tokens come on top, but {self.name} reads "
                    f"{self.context_length}: shorten the class name."
                )
            self._refuse_unknown(text, row)
        padded = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
        for target, row in zip(padded, rows, strict=True):
            target[: len(row)] = torch.tensor(row)
        return padded.to(self.device)

    def word_embeddings(self, text: str) -> Tensor:
        """Token embeddings [m, d_t] of ``text`` without SOS and EOT."""
        ids = torch.tensor(self.tokenizer.encode(text), dtype=torch.long, device=self.device)
        return cast(Tensor, self.text.token_embedding.weight[ids].detach())

    def take(self, values: Tensor) -> Tensor:
        """A tensor on the model's device, copied without waiting where that is a GPU."""
        return (values.pin_memory() if self.device.type == "cuda" else values).to(self.device, non_blocking=True)

    def normalise(self, pictures: Tensor) -> Tensor:
        """Prepared pictures [B, 3, S, S] (uint8) as the model's input, fp32, on its device."""
        mean, std = self._mean_and_std
        return (pictures.to(self.device, non_blocking=True).float() / 255 - mean) / std

    @cached_property
    def _mean_and_std(self) -> tuple[Tensor, Tensor]:
        found = torch.tensor([self.preprocessing.mean, self.preprocessing.std], device=self.device)[..., None, None]
        return found[0], found[1]

    def _refuse_unknown(self, text: str, row: list[int]) -> None:
        if self.known_tokens is None or self.known_tokens.issuperset(row):
            return
        unknown = [w for w in text.replace(".", " ").replace(",", " ").split() if not self._knows(w)] or [text]
        raise MmlopError(
            f"The {self.name} backbone never saw the word '{unknown[0]}' (in '{text}'): it only knows the words of its "
            f"rendered world. Choose other class names or a real CLIP, e.g. backbone: vit-b-16 in params.yaml."
        )

    def _knows(self, word: str) -> bool:
        return self.known_tokens is None or self.known_tokens.issuperset(self.tokenizer.encode(word))


def load(
    architecture: str,
    weights: str | None = None,
    precision: str = "fp32",
    device: str = "cpu",
    resolution: int | None = None,
) -> Backbone:
    """Load and freeze a CLIP.

    ``architecture`` is "mini" (shipped with the package), an open_clip name with a pretrained tag or a checkpoint file as
    ``weights``, or a local folder holding ``open_clip_config.json`` and weights. ``resolution`` overrides the picture
    size in pixels (positional embeddings are then interpolated by open_clip).

    Raises MmlopError for an unknown name, tag or file, weights that cannot be downloaded, an activation that does not
    belong to the weights, and models that cannot be prompted.
    """
    if precision not in PRECISIONS:
        raise MmlopError(f"Precision '{precision}' is unknown: choose one of {listing(PRECISIONS, precision)}.")
    if architecture == "mini":
        from mmlop.data.mini import clip

        return wrap(clip.load(), "mini", "shipped", precision, device, known_tokens=clip.known_tokens())
    folder = Path(architecture).expanduser()
    if folder.is_dir():
        return wrap(_create(f"local-dir:{folder}", None, resolution), str(folder), "local", precision, device)
    _check_architecture(architecture)
    return wrap(
        _create(architecture, _check_weights(architecture, weights), resolution),
        architecture,
        str(weights),
        precision,
        device,
    )


def wrap(
    model: nn.Module,
    name: str,
    weights: str,
    precision: str = "fp32",
    device: str = "cpu",
    known_tokens: frozenset[int] | None = None,
) -> Backbone:
    """Freeze an open_clip model and check that prompts fit into it (else MmlopError, naming what does not fit)."""
    refuse_unpromptable(model, name)
    model.eval().requires_grad_(False)
    fingerprint = fingerprint_of(model)
    if precision != "fp32":
        convert_weights_to_lp(model, PRECISIONS[precision])
    config = get_model_preprocess_cfg(model)
    size = cast(tuple[int, int], cast(Any, model.visual).image_size)
    preprocessing = Preprocessing(
        size=size[0],
        mean=tuple(config.get("mean", open_clip.OPENAI_DATASET_MEAN)),
        std=tuple(config.get("std", open_clip.OPENAI_DATASET_STD)),
        interpolation=config.get("interpolation", "bicubic"),
        resize_mode=config.get("resize_mode", "shortest"),
    )
    if size[0] != size[1] or preprocessing.resize_mode != "shortest" or preprocessing.interpolation != "bicubic":
        raise MmlopError(f"{name} wants its pictures {asdict(preprocessing)}: only square, bicubic, centre-cropped here.")
    if device.startswith("cuda"):
        torch.backends.cudnn.allow_tf32 = False  # fp32 is fp32: of convolutions too, unlike torch's default
    try:
        model.to(device)
    except (RuntimeError, AssertionError) as error:
        raise MmlopError(f"Device '{device}' cannot be used on this machine ({error}): choose device: cpu.") from error
    tokenizer = SimpleTokenizer()
    return Backbone(name, weights, model, tokenizer, preprocessing, fingerprint, precision, known_tokens)


def fingerprint_of(model: nn.Module) -> str:
    """SHA-256 over the weights' names, types, shapes and bytes (hex, 64 digits)."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def refuse_unpromptable(model: nn.Module, name: str) -> None:
    """Raise MmlopError, naming the reason, for towers whose forward pass is not the one in ``mmlop.encode``."""
    for reason, found in _unpromptable(model):
        if found:
            raise MmlopError(
                f"{name} cannot be prompted: {reason}. Use a CLIP with a VisionTransformer pooled at the class token and "
                f"a causal text transformer pooled at EOT, e.g. ViT-B-16-quickgelu."
            )


def _unpromptable(model: Any) -> Iterator[tuple[str, bool]]:
    """Reasons in the order in which they can be asked, lazily: a later one may need what an earlier one checks."""
    visual: Any = getattr(model, "visual", None)
    yield f"its image tower is a {type(visual).__name__}", type(visual) is not VisionTransformer
    yield "it is a CoCa model, whose text feature is an extra class token", hasattr(model, "text_decoder")
    yield "its image tower pools by attention", visual.attn_pool is not None
    yield f"its image tower pools '{visual.pool_type}' instead of the class token", visual.pool_type != "tok"
    text = model if hasattr(model, "token_embedding") else model.text
    yield f"its text tower is a {type(text).__name__}", not hasattr(text, "token_embedding")
    yield "its text tower appends a class token", getattr(text, "cls_emb", None) is not None
    yield "its text tower has no causal mask", text.attn_mask is None
    pool = getattr(text, "text_pool_type", getattr(text, "pool_type", None))
    yield f"its text tower pools '{pool}' instead of EOT", pool != "argmax"
    yield "its vocabulary is not CLIP's", text.token_embedding.num_embeddings != 49408
    blocks = [*visual.transformer.resblocks, *text.transformer.resblocks]
    yield "its blocks are not standard residual blocks", any(type(b) is not ResidualAttentionBlock for b in blocks)


def _check_architecture(architecture: str) -> None:
    names = open_clip.list_models()
    if architecture not in names:
        if "/" in architecture or architecture.startswith((".", "~")):
            raise MmlopError(f"The backbone folder '{architecture}' does not exist.")
        near = ", ".join(listing(names, architecture).split(", ")[:3])
        raise MmlopError(
            f"open_clip has no architecture '{architecture}'. Near ones: {near}. "
            f"(`python -c 'import open_clip; print(open_clip.list_models())'` lists all.)"
        )


def _check_weights(architecture: str, weights: str | None) -> str:
    """The tag or existing file to load; refuses an activation other than the one the weights were trained with."""
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if not weights:
        raise MmlopError(f"{architecture} needs weights: a pretrained tag ({', '.join(tags)}) or a checkpoint file.")
    if weights not in tags:
        file = Path(weights).expanduser()
        if file.is_file():
            return str(file)
        raise MmlopError(
            f"'{weights}' is neither a pretrained tag of {architecture} ({listing(tags, weights) or 'it has none'}) nor an "
            f"existing file: correct `weights` in this profile of params.yaml."
        )
    wanted = bool(open_clip.get_pretrained_cfg(architecture, weights).get("quick_gelu", False))
    if wanted != bool((open_clip.get_model_config(architecture) or {}).get("quick_gelu", False)):
        plain = architecture.removesuffix("-quickgelu")
        right = f"{plain}-quickgelu" if wanted else plain
        raise MmlopError(
            f"The weights '{weights}' were trained with {'QuickGELU' if wanted else 'GELU'}, which {architecture} does not "
            f"use: set `architecture: {right}`."
        )
    return weights


def _create(architecture: str, weights: str | None, resolution: int | None) -> nn.Module:
    """open_clip's model, in fp32, with its loading errors as one sentence."""
    where = architecture.removeprefix("local-dir:")
    archive = _torchscript(weights) if weights and Path(weights).is_file() else None
    if archive is not None and not (open_clip.get_model_config(architecture) or {}).get("quick_gelu", False):
        raise MmlopError(
            f"{weights} is one of OpenAI's own files, trained with QuickGELU, which {architecture} does not use: set "
            f"`architecture: {architecture}-quickgelu`."
        )
    try:
        with _quiet():
            model: nn.Module = open_clip.create_model(
                architecture,
                pretrained=None if archive else weights,
                force_image_size=resolution,
                require_pretrained=archive is None,
                weights_only=True,
            )
            if archive:
                resize_pos_embed(archive, model)
                model.load_state_dict(archive)
            return model
    except Exception as error:  # open_clip raises many kinds; each ends here as a sentence
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if weights is not None and not Path(weights).is_file():
            raise MmlopError(
                f"The weights '{weights}' of {where} could not be downloaded ({first}). Without network, put a checkpoint "
                f"on this machine and give its path as `weights` in this profile of params.yaml."
            ) from error
        raise MmlopError(f"{weights or where} could not be loaded as {where}: {first}") from error


def _torchscript(file: str) -> dict[str, Tensor] | None:
    """The weights in a TorchScript archive, the form of OpenAI's own ViT-*.pt files; None for any other file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            archive = torch.jit.load(file, map_location="cpu")
    except (RuntimeError, ValueError):
        return None
    constants = ("input_resolution", "context_length", "vocab_size", "attn_mask")  # archives keep these among the weights
    return {name: value for name, value in archive.state_dict().items() if name not in constants}


@contextmanager
def _quiet() -> Iterator[None]:
    """open_clip logs and warns on the root logger what is answered here by an error."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
