"""What is measured. Each ``Work`` is done in a process of its own: ``prepare`` there gives the function to time."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import open_clip
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as tv

from mmlop.backbone import PRECISIONS, Backbone, wrap
from mmlop.bench import reference
from mmlop.bench.settings import Work
from mmlop.data.pictures import augment
from mmlop.data.reading import decode
from mmlop.encode import Packing, encode_image
from mmlop.errors import MmlopError
from mmlop.features import image_features, prompted_text, prompted_tokens
from mmlop.losses import Consistency, correct_drift, loss_terms, unit
from mmlop.prompts import PromptShape, compose, initialise
from mmlop.recorded import Recorded, Step
from mmlop.training import Recipe

DEPTH, TOKENS, RANK = 9, 4, 1  # the published prompts: J, n, r
PICTURES, SIZE, VIEW = 64, (500, 375), 224  # JPEG files of ImageNet's usual size, and the side of a training view
MATRIX = 4096  # rows and columns


@dataclass(frozen=True)
class Encoders:
    """How a training step encodes; everything else in it is the same for both sides. All give unit features."""

    frozen: Callable[[Tensor], Tensor]  # uint8 views -> f [B, d]
    image: Callable[[Tensor, Tensor], Tensor]  # views, P_v -> f' [B, d]
    text: Callable[[Tensor, Tensor], Tensor]  # P_t, anchors -> w* [C, d]


def ours(backbone: Backbone, classes: Sequence[str]) -> Encoders:
    texts = Packing(prompted_tokens(backbone, classes, TOKENS), TOKENS)
    return Encoders(
        frozen=lambda views: image_features(backbone, views),
        image=lambda views, prompts: unit(encode_image(backbone, backbone.normalise(views), prompts)),
        text=lambda prompts, anchors: prompted_text(backbone, texts, prompts, anchors),
    )


def plain(backbone: Backbone, classes: Sequence[str]) -> Encoders:
    model: Any = backbone.model
    tokens = reference.with_placeholders(prompted_tokens(backbone, classes, TOKENS), TOKENS, backbone.context_length)

    @torch.no_grad()
    def frozen(views: Tensor) -> Tensor:
        return unit(model.encode_image(backbone.normalise(views)))

    def image(views: Tensor, prompts: Tensor) -> Tensor:
        each = prompts.expand(len(views), -1, -1, -1)
        return unit(reference.encode_image(backbone, backbone.normalise(views), each))

    def text(prompts: Tensor, anchors: Tensor) -> Tensor:
        return correct_drift(unit(reference.encode_text(backbone, tokens, prompts)), anchors)

    return Encoders(frozen, image, text)


class Training:
    """Training steps on noise, with one side's encoders. Weights and pictures do not matter to speed, shapes do."""

    def __init__(
        self,
        backbone: Backbone,
        encoders: Encoders,
        classes: int,
        batch: int,
        cached: bool = False,
        recorded: bool = False,
    ) -> None:
        generator = torch.Generator().manual_seed(0)
        depth = min(DEPTH, backbone.vision_layers, backbone.text_layers)
        shape = PromptShape(depth, TOKENS, RANK, backbone.vision_width, backbone.text_width)
        factors = initialise(shape, None, generator)
        size, device, recipe = backbone.preprocessing.size, backbone.device, Recipe()
        self.encoders, self.logit_scale = encoders, backbone.logit_scale
        self.factors = {name: factor.to(device).requires_grad_() for name, factor in factors.items()}
        self.optimiser = torch.optim.SGD(
            list(self.factors.values()), recipe.learning_rate, recipe.momentum, weight_decay=recipe.weight_decay
        )
        self.views = torch.randint(0, 256, (batch, 3, size, size), generator=generator, dtype=torch.uint8).to(device)
        self.labels = torch.randint(0, classes, (batch,), generator=generator).to(device)
        self.anchors = unit(torch.randn(classes, backbone.embed_dim, generator=generator)).to(device)
        self.frozen = encoders.frozen(self.views) if cached else None
        self._losses: Step = Recorded(self._whole, device) if recorded else self._whole
        self._texts: Step = Recorded(self._text_alone, device) if recorded else self._text_alone

    def step(self) -> Tensor:
        """A whole step; without ``cached``, the frozen image features are part of it. Gives the loss."""
        frozen = self.encoders.frozen(self.views) if self.frozen is None else self.frozen
        loss = self._losses(self.views, frozen)["loss"]
        self.optimiser.step()
        return loss

    def text(self) -> Tensor:
        """The text part alone: text pass, its consistency term, backward."""
        loss = self._texts()["loss"]
        self.optimiser.step()
        return loss

    def _whole(self, views: Tensor, frozen: Tensor) -> dict[str, Tensor]:
        vision, text = self._prompts()
        image = self.encoders.image(views, vision)
        classes = self.encoders.text(text, self.anchors)
        terms = loss_terms(image, classes, frozen, self.anchors, self.labels, self.logit_scale, Consistency())
        return self._backward(terms["loss"])

    def _text_alone(self) -> dict[str, Tensor]:
        _, text = self._prompts()
        return self._backward(torch.nn.functional.l1_loss(self.encoders.text(text, self.anchors), self.anchors))

    def _prompts(self) -> tuple[Tensor, Tensor]:
        vision, text = compose(self.factors)
        assert vision is not None
        assert text is not None
        return vision, text

    def _backward(self, loss: Tensor) -> dict[str, Tensor]:
        for factor in self.factors.values():
            if factor.grad is not None:
                factor.grad.zero_()
        loss.backward()
        return {"loss": loss.detach()}


def prepare(work: Work) -> Callable[[], object]:
    """The function to time. Raises MmlopError for an architecture that cannot be prompted."""
    torch.backends.cudnn.allow_tf32 = False  # as `wrap` has it, for what is not wrapped too
    match work.kind:
        case "step" | "text":
            backbone = wrap(random_model(work.architecture), work.architecture, "random", work.precision, work.device)
            names = open_clip.IMAGENET_CLASSNAMES[: work.classes]
            encoders = (ours if work.side == "ours" else plain)(backbone, names)
            training = Training(backbone, encoders, work.classes, work.batch, work.cached, work.recorded)
            return training.step if work.kind == "step" else training.text
        case "encode":
            return _encoding(work)
        case "matmul":
            dtype = PRECISIONS[work.precision]
            matrix = torch.randn(MATRIX, MATRIX, generator=torch.Generator().manual_seed(0)).to(work.device, dtype)
            return lambda: matrix @ matrix
        case "decode":
            return _augmenting(from_memory=work.side == "ours")
    raise AssertionError(f"no work of kind {work.kind}")


def random_model(architecture: str, precision: str = "fp32") -> nn.Module:
    torch.manual_seed(0)
    return cast(nn.Module, open_clip.create_model(model_name(architecture), precision=precision, load_weights=False))


def model_name(architecture: str) -> str:
    """open_clip's name for one of its architectures, or for a folder with an ``open_clip_config.json``."""
    if (Path(architecture) / "open_clip_config.json").is_file():
        return f"local-dir:{architecture}"
    if architecture not in open_clip.list_models():
        raise MmlopError(
            f"'{architecture}' is neither an open_clip architecture nor a folder with an open_clip_config.json: give "
            f"--architecture another one, e.g. ViT-B-16-quickgelu."
        )
    return architecture


@torch.no_grad()
def _encoding(work: Work) -> Callable[[], object]:
    """Encoding a batch without gradients: by open_clip's own method, or by ours without and with prompts."""
    generator = torch.Generator().manual_seed(0)
    if work.side == "open_clip":
        model: Any = random_model(work.architecture, work.precision).eval().to(work.device)
        size = model.visual.image_size[0]
        images = torch.randn(work.batch, 3, size, size, generator=generator).to(work.device, PRECISIONS[work.precision])
        return torch.no_grad()(lambda: model.encode_image(images))
    backbone = wrap(random_model(work.architecture), work.architecture, "random", work.precision, work.device)
    size = backbone.preprocessing.size
    images = torch.randn(work.batch, 3, size, size, generator=generator).to(work.device)
    depth = min(DEPTH, backbone.vision_layers)
    prompts = torch.randn(depth, TOKENS, backbone.vision_width, generator=generator).to(work.device)
    return torch.no_grad()(lambda: encode_image(backbone, images, prompts if work.side == "prompted" else None))


def _augmenting(from_memory: bool) -> Callable[[], object]:
    """An epoch of training views of JPEG pictures: decoded anew for each view, or once beforehand."""
    random, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    files = [_jpeg(random) for _ in range(PICTURES)]
    if not from_memory:
        return lambda: [augment(tv.pil_to_tensor(decode(file)), VIEW, generator) for file in files]
    pictures = [tv.pil_to_tensor(decode(file)) for file in files]
    return lambda: [augment(picture, VIEW, generator) for picture in pictures]


def _jpeg(random: np.random.Generator) -> bytes:
    """A file of soft colours under some noise, about as long as a photograph of its size."""
    shades = Image.fromarray(random.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    soft = np.asarray(shades.resize(SIZE, Image.Resampling.BICUBIC), dtype=np.int16)
    noisy = (soft + random.integers(-12, 13, soft.shape, dtype=np.int16)).clip(0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(noisy).save(file, "JPEG", quality=90)
    return file.getvalue()
