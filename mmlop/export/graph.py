"""A classifier with one set of classes, as one ONNX file: from prepared pictures to scores and probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmlop.classifier import Classifier
from mmlop.encode import Deltas, encode_image
from mmlop.losses import unit

OPSET = 20  # the first with Gelu
INPUT, OUTPUTS = "pictures", ("logits", "probabilities")
NO_LIMIT = 2**62  # bytes


@dataclass(frozen=True)
class Head:
    """Constants that make scores of features, the same for every method:

        logits = f' weight^T + bias + exp(-beta (1 - f' keys^T)) values        [N, C]

    Of class features w* the weight is ``tau w*`` and the bias zero; a linear probe has its own. The votes of Tip-Adapter's
    cache come on top, with alpha in the values; other methods have no keys.
    """

    weight: Tensor  # [C, d]
    bias: Tensor  # [C]
    keys: Tensor | None = None  # [K, d]
    values: Tensor | None = None  # [K, C]
    beta: float = 0.0


def head_of(classifier: Classifier, classes: tuple[str, ...]) -> Head:
    """The scores of a classifier over ``classes``, which it must know (`Classifier.candidates`)."""
    factors, kind = classifier.adapter.factors, classifier.adapter.shape.kind
    columns = classifier.columns(classes)
    if kind == "probe":
        rows = [column for column in columns if column is not None]
        return Head(factors["weight"][rows], factors["bias"][rows])
    weight = classifier.backbone.logit_scale * classifier.class_features(classes)
    bias = torch.zeros(len(classes))
    if kind != "cache":
        return Head(weight, bias)
    alpha, beta = map(float, factors["strength"])
    votes = torch.nn.functional.pad(alpha * factors["values"], (0, 1))  # a last column for classes that get none
    values = votes[:, [-1 if column is None else column for column in columns]]
    return Head(weight, bias, factors["keys"], values, beta)


class Scores(nn.Module):
    """Prepared uint8 pictures [N, 3, S, S] to logits [N, C] and probabilities [N, C], with everything else constant.

    It computes what `Classifier.logits` and `Classifier.probabilities` do, in fp32; a test holds it to that.
    """

    mean: Tensor
    std: Tensor
    prompts: Tensor | None
    A: Tensor | None
    B: Tensor | None
    weight: Tensor
    bias: Tensor
    keys: Tensor | None
    values: Tensor | None

    def __init__(self, classifier: Classifier, classes: tuple[str, ...]) -> None:
        super().__init__()
        self.backbone = classifier.backbone
        self.visual = classifier.backbone.visual
        head, tuned, given = head_of(classifier, classes), classifier.tuned, classifier.backbone.preprocessing
        deltas = tuned.vision_deltas
        self.scale, self.beta = deltas.scale if deltas else 1.0, head.beta
        self.temperature = classifier.adapter.info.temperature
        constants = {
            "mean": torch.tensor(given.mean)[:, None, None],
            "std": torch.tensor(given.std)[:, None, None],
            "prompts": tuned.vision_prompts,
            "A": deltas.A if deltas else None,
            "B": deltas.B if deltas else None,
            "weight": head.weight,
            "bias": head.bias,
            "keys": head.keys,
            "values": head.values,
        }
        for name, value in constants.items():
            self.register_buffer(name, value)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        images = (pictures.float() / 255 - self.mean) / self.std
        deltas = None if self.A is None or self.B is None else Deltas(self.A, self.B, self.scale)
        features = unit(encode_image(self.backbone, images, self.prompts, deltas))  # [N, d]
        logits = features @ self.weight.T + self.bias
        if self.keys is not None and self.values is not None:
            logits = logits + torch.exp(-self.beta * (1 - features @ self.keys.T)) @ self.values
        return logits, (logits / self.temperature).softmax(dim=1)


@torch.no_grad()
def write(scores: Scores, file: Path) -> None:
    """Write the ONNX file, for any number of pictures at once. Weights of 2 GB and more, which one such file cannot hold,
    go into ``<file>.data`` beside it.

    Products of constants alone (a part of a weight, transposed) are worked out here, so that they are weights like others:
    smaller in memory, quicker to load, and seen by quantisation.
    """
    from onnxscript import optimizer

    size = scores.backbone.preprocessing.size
    example = torch.zeros(2, 3, size, size, dtype=torch.uint8)
    batch: Any = {0: torch.export.Dim("N")}
    traced = torch.export.export(scores.eval(), (example,), dynamic_shapes=(batch,), strict=True)
    program = torch.onnx.export(
        traced, dynamo=True, optimize=False, verbose=False, opset_version=OPSET,
        input_names=[INPUT], output_names=list(OUTPUTS),
    )  # fmt: skip
    assert program is not None
    optimizer.optimize(program.model, input_size_limit=NO_LIMIT, output_size_limit=NO_LIMIT)
    program.save(file)
