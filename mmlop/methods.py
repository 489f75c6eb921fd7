"""Every method a user can choose, as a point in one family: a kind of shape and its settings.

The settings are the published ones for ViT-B/16, base-to-novel with 16 shots; what was published for other protocols is in
docs/methods.md. A method that differs from another in a value differs here in that value alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from mmlop.errors import MmlopError, listing
from mmlop.settings import Averaging, Lora, Loss, Prompts, Settings, Train

Kind = Literal["prompts", "lora", "cache", "probe", "none"]

# Of the section `train`, what is not of training by gradient.
FOR_ALL = ("threads", "parallel_seeds")
OF_VIEWS = ("crop", "flip", "views")


@dataclass(frozen=True)
class Method:
    """One method: what it is, where it was published, and its settings."""

    title: str
    paper: str
    kind: Kind
    about: str  # one line for people
    source: str  # where the settings are published
    settings: Settings = field(default_factory=Settings)

    @property
    def trains(self) -> bool:
        """Whether something is learned by gradient, from a loss, in epochs."""
        return self.kind in ("prompts", "lora")

    def uses(self, section: str, key: str) -> bool:
        """Whether a setting can make a difference to the method."""
        if section == "train":
            return self.trains or key in FOR_ALL or (self.kind == "cache" and key in OF_VIEWS)
        return self.trains if section == "loss" else section == self.kind


_DEEP = Prompts(encoders="both", form="full", tokens=4, depth=9)
_CONSISTENT = Loss(text=25, image=10, logits=1)

METHODS: dict[str, Method] = {
    "mmlop": Method(
        "MMLoP",
        "arXiv 2602.21397",
        "prompts",
        "rank-1 deep prompts in both encoders with a shared up-projection, consistency, drift correction",
        "the paper's abstract and second-hand notes; PromptSRC's where they are silent (docs/method.md)",
        Settings(
            prompts=Prompts(encoders="both", form="shared", tokens=4, rank=1, depth=9),
            loss=_CONSISTENT.model_copy(update={"drift_correction": True}),
            train=Train(epochs=30, learning_rate=0.0025),
        ),
    ),
    "promptsrc": Method(
        "PromptSRC",
        "arXiv 2307.06948",
        "prompts",
        "deep prompts in both encoders, consistency, prompts averaged over epochs",
        "muzairkhattak/PromptSRC configs/trainers/PromptSRC/vit_b16_c2_ep20_batch4_4+4ctx.yaml",
        Settings(
            prompts=_DEEP,
            loss=_CONSISTENT,
            # epoch 15 and 1 epoch, of 20
            train=Train(epochs=20, learning_rate=0.0025, averaging=Averaging(mean=0.75, std=0.05)),
        ),
    ),
    "maple": Method(
        "MaPLe",
        "arXiv 2210.03117",
        "prompts",
        "deep text prompts, and image prompts made from them by a linear map per block",
        "muzairkhattak/multimodal-prompt-learning configs/trainers/MaPLe/vit_b16_c2_ep5_batch4_2ctx.yaml",
        Settings(
            prompts=Prompts(encoders="both", form="coupled", tokens=2, depth=9),
            train=Train(epochs=5, learning_rate=0.0035),
        ),
    ),
    "ivlp": Method(
        "IVLP",
        "arXiv 2210.03117, 2307.06948",
        "prompts",
        "independent deep prompts in both encoders, cross-entropy alone: PromptSRC's baseline",
        "muzairkhattak/PromptSRC configs/trainers/IVLP/vit_b16_c2_ep20_batch4_4+4ctx.yaml",
        Settings(prompts=_DEEP, train=Train(epochs=20, learning_rate=0.0025)),
    ),
    "vpt": Method(
        "VPT (deep)",
        "arXiv 2203.12119",
        "prompts",
        "deep prompts in the image encoder alone; the text is the data set's template",
        "muzairkhattak/multimodal-prompt-learning configs/trainers/VPT/vit_b16_c2_ep5_batch4_4.yaml",
        Settings(
            prompts=Prompts(encoders="vision", form="full", tokens=8, depth=12),
            train=Train(epochs=5, learning_rate=0.0025),
        ),
    ),
    "coop": Method(
        "CoOp",
        "arXiv 2109.01134",
        "prompts",
        "prompts in front of the text, in its first block alone",
        "KaiyangZhou/CoOp configs/trainers/CoOp/vit_b16_ctxv1.yaml (16 tokens in its few-shot runs)",
        Settings(
            prompts=Prompts(encoders="text", form="full", tokens=4, depth=1),
            train=Train(epochs=200, learning_rate=0.002, batch_size=32),
        ),
    ),
    "kgcoop": Method(
        "KgCoOp",
        "arXiv 2303.13283",
        "prompts",
        "CoOp, kept close to the data set's template by a cosine distance",
        "htyao89/KgCoOp configs/trainers/KgCoOp/vit_b16_ep100_ctxv1.yaml, trainers/kgcoop.py",
        Settings(
            prompts=Prompts(encoders="text", form="full", tokens=4, depth=1),
            loss=Loss(text=8, distance="cosine", anchor="template"),
            train=Train(epochs=100, learning_rate=0.002, batch_size=128),
        ),
    ),
    "zero_shot": Method(
        "CLIP", "arXiv 2103.00020", "none", "the frozen CLIP with the data set's template; nothing is learned", "the paper"
    ),
    "linear_probe": Method(
        "Linear probe",
        "arXiv 2103.00020",
        "probe",
        "logistic regression on frozen image features; knows the classes it was trained on, and no others",
        "KaiyangZhou/CoOp lpclip/linear_probe.py",
    ),
    "tip_adapter": Method(
        "Tip-Adapter",
        "arXiv 2207.09519",
        "cache",
        "the shots as a cache beside the frozen classifier; nothing is learned but two strengths",
        "gaopengcuhk/Tip-Adapter main.py, utils.py, configs/imagenet.yaml",
        Settings(train=Train(views=10, crop=0.5)),  # cache keys are averages over so many views
    ),
    "clip_lora": Method(
        "CLIP-LoRA",
        "arXiv 2405.18541",
        "lora",
        "low-rank changes of the query, key and value matrices of every block of both encoders",
        "MaxZanella/CLIP-LoRA run_utils.py, lora.py (without dropout, see mmlop/lora.py)",
        Settings(
            lora=Lora(rank=2, alpha=1),
            train=Train(
                steps_per_shot=500, learning_rate=2e-4, optimiser="adamw", batch_size=32, weight_decay=0.01, warmup_epochs=0
            ),
        ),
    ),
}


def get(name: str) -> Method:
    """Raises MmlopError for an unknown name."""
    if name not in METHODS:
        raise MmlopError(f"There is no method '{name}': choose one of {listing(METHODS, name)}.")
    return METHODS[name]
