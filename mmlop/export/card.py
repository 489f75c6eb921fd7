"""What is said of an exported model: `export.json` for programs, `README.md` for people."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mmlop
from mmlop import adapter as adapters
from mmlop.classifier import Classifier
from mmlop.export.graph import INPUT, OPSET, OUTPUTS

PRECISIONS = {"model.onnx": "fp32", "model-int8.onnx": "int8"}


def about(adapter: Path, classifier: Classifier, classes: tuple[str, ...], models: Sequence[str]) -> dict[str, Any]:
    """export.json of the ``models`` made from the adapter in the folder ``adapter``."""
    info, size = classifier.adapter.info, classifier.backbone.preprocessing.size
    libraries = ("torch", "onnx", "onnxscript", "onnxruntime", "pillow", "torchvision")
    return {
        "format": 1,
        "made_by": "mmlop export",
        "models": {name: PRECISIONS[name] for name in models},
        "opset": OPSET,
        "size": size,
        "labels": list(classes),
        "temperature": info.temperature,
        "input": {
            "name": INPUT,
            "type": "uint8",
            "shape": ["N", 3, size, size],
            "channels": "RGB",
            "resize": "shorter side to size, bicubic, antialiased (Pillow); the longer side is rounded down",
            "crop": "centre",
            "normalised": "in the model",
            "mean": list(info.backbone.mean),
            "std": list(info.backbone.std),
        },
        "outputs": {
            OUTPUTS[0]: "[N, labels], before the temperature",
            OUTPUTS[1]: "[N, labels], the softmax of logits / temperature",
        },
        "lineage": {
            "adapter": adapters.identity(adapter),
            "method": info.method,
            "dataset": info.origin.dataset,
            "data_hash": info.origin.data_hash,
            "split_hash": info.origin.split_hash,
            "shots": info.origin.shots,
            "seed": info.origin.seed,
            "metrics": info.metrics,
            "own_classes": classes == info.classes,
            "backbone": {
                "name": info.backbone.name,
                "weights": info.backbone.weights,
                "fingerprint": info.backbone.fingerprint,
            },
            "trained_in": info.backbone.precision,
        },
        "versions": {"mmlop": mmlop.__version__} | {name: version(name) for name in libraries},
    }


def readme(about: dict[str, Any]) -> str:
    """The README of an exported folder, in Markdown, from what export.json says."""
    lineage, labels, size = about["lineage"], about["labels"], about["size"]
    files = "\n".join(f"| `{name}` | {precision} |" for name, precision in about["models"].items())
    metrics = ", ".join(f"{name} {value:.2f}" for name, value in sorted(lineage["metrics"].items())) or "none"
    clip = f"{lineage['backbone']['name']} ({lineage['backbone']['weights']})"
    notes = []
    if lineage["trained_in"] != "fp32":
        notes.append(f"The adapter was trained in {lineage['trained_in']} and exported in fp32: scores differ slightly.")
    if not lineage["own_classes"]:
        notes.append("The labels are others than those the adapter was trained on, which the metrics below belong to.")
    said = "".join(f"{note}\n\n" for note in notes)
    return f"""# {lineage["method"]} for {lineage["dataset"]}, without PyTorch

```console
$ pip install onnxruntime numpy pillow
$ python predict.py PICTURES... --top 3      # or --json, or --model with another file of the table
```

| model | precision |
|---|---|
{files}

A model takes `{INPUT}`, uint8 [N, 3, {size}, {size}] in RGB, and gives `logits` and `probabilities`, [N, {len(labels)}], in
the order of `labels` in `export.json`. Normalisation, prompts and class texts are inside: other labels need another export.
`predict.py` makes pictures ready as mmlop does: shorter side to {size} pixels, bicubic, the centre.

{said}Made by mmlop {about["versions"]["mmlop"]} from the adapter {lineage["adapter"]}, trained on
{lineage["shots"]} pictures per class (seed {lineage["seed"]}), for the CLIP {clip}.
The adapter's own metrics in percent: {metrics}.

Labels: {", ".join(labels)}
"""
