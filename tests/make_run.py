"""A project as the train stage leaves it, with a tiny random CLIP: data/<name>/ and runs/<name>/.

The fixtures made from it are in `project_fixtures.py`.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from conftest import tiny_clip
from PIL import Image
from safetensors.torch import save_file

from mmlop import adapter as adapters
from mmlop import backbone as backbones
from mmlop.adapter import Adapter, AdapterInfo, Origin
from mmlop.classifier import Classifier
from mmlop.data import templates
from mmlop.data.manifest import Manifest, Picture, content_of
from mmlop.files import write_json
from mmlop.prompts import PromptShape, initialise

CLASSES = ("cat", "dog", "horse", "blue car")
EPOCHS = 3
TEMPLATES = templates.get("promptsrc")[:2]


def save_backbone(folder: Path, seed: int = 0) -> Path:
    """open_clip's local folder of the tiny CLIP."""
    folder.mkdir(parents=True)
    config = {
        "embed_dim": 16,
        "vision_cfg": {"layers": 2, "width": 32, "patch_size": 8, "image_size": 32, "head_width": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
    }
    preprocessing = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocessing}))
    save_file(dict(tiny_clip(seed).state_dict()), folder / "model.safetensors")
    return folder


def make_data(root: Path, name: str, pictures: int = 40) -> Manifest:
    """``pictures`` validation pictures, and one training and one test picture per class."""
    folder, generator = root / "data" / name, np.random.default_rng(0)
    rows = []
    for index in range(pictures + 2 * len(CLASSES)):
        extra = index - pictures
        part = "val" if extra < 0 else "train" if extra < len(CLASSES) else "test"
        file = folder / "pictures" / f"{index:03d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        coarse = generator.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((40, 36), Image.Resampling.BILINEAR).save(file)
        rows.append(Picture(f"pictures/{file.name}", index % len(CLASSES), part, content_of(file.read_bytes())))
    manifest = Manifest(name, CLASSES, "a photo of a {}.", "CC0", "https://example.org/pictures", tuple(rows))
    manifest.save(folder / "manifest.json")
    return manifest


def relabel(root: Path, name: str, adapter: Path, wrong: int = 0) -> None:
    """Make what ``adapter`` predicts the truth of every picture, but for the first ``wrong`` ones: it is then good."""
    folder = root / "data" / name
    manifest, classifier = Manifest.load(folder / "manifest.json"), Classifier.load(adapter)
    predictions = classifier.predict([folder / picture.path for picture in manifest.pictures])
    labels = [CLASSES.index(one.label) for one in predictions]
    labels = [(label + (index < wrong)) % len(CLASSES) for index, label in enumerate(labels)]
    rows = tuple(replace(picture, label=label) for picture, label in zip(manifest.pictures, labels, strict=True))
    replace(manifest, pictures=rows).save(folder / "manifest.json")


def make_run(root: Path, name: str, backbone: Path, seed: int = 1, noise: float = 0.0, seeds: int = 2) -> Path:
    """runs/<name>/ with factors drawn from ``seed``; much ``noise`` makes a bad adapter."""
    manifest = Manifest.load(root / "data" / name / "manifest.json")
    loaded = backbones.load(str(backbone))
    shape = PromptShape(2, 2, 1, loaded.vision_width, loaded.text_width)
    factors = initialise(shape, loaded.word_embeddings("a photo"), torch.Generator().manual_seed(seed))
    generator = torch.Generator().manual_seed(seed)
    factors = {key: value + noise * torch.randn(value.shape, generator=generator) for key, value in factors.items()}
    params = {"prompts": {"tokens": 2, "rank": 1, "depth": 2, "form": "shared"}, "fewshot": {"shots": 1, "seeds": [1, 2]}}
    mode, metrics = {"device": "cpu"}, {"validation": 50.0, "accuracy": 40.0 + seed, "ece": 5.0}
    info = AdapterInfo(
        method="mmlop",
        shape=shape,
        drift_correction=True,
        backbone=adapters.record(loaded),
        classes=CLASSES,
        template=manifest.template,
        anchor_name="promptsrc",
        anchor_templates=TEMPLATES,
        origin=Origin(
            dataset=name, data_hash=manifest.hash, split_hash="5" * 64, shots=1, seed=seed, params=params, mode=mode
        ),
        metrics=metrics,
    )
    folder = root / "runs" / name
    Adapter(factors, info).save(folder / "adapter")
    history = [{"loss": 3.0 / (e + 1), "ce": 1.0, "accuracy": 30.0 + e, "learning_rate": 0.01} for e in range(EPOCHS)]
    halves = {"base": 50.0, "novel": 40.0, "hm": 44.4444}
    trained = [
        {"protocol": protocol, "shots": 1, "epochs": EPOCHS, "metrics": found, "history": history}
        for protocol, found in (("base_to_novel", halves), ("all_classes", metrics))
    ]
    record = {
        "format": 2,
        "dataset": name,
        "method": "mmlop",
        "params": params,
        "data_hash": manifest.hash,
        "split_hash": "5" * 64,
        "data": {
            "source": manifest.source,
            "licence": manifest.licence,
            "split": manifest.split,
            "skipped": 0,
            "classes": 4,
            "pictures": len(manifest.pictures),
        },
        "backbone": info.backbone.model_dump(mode="json"),
        "mode": mode,
        "trainable": shape.trainable,
        "classes": list(CLASSES),
        "zero_shot": {"base": 30.0, "novel": 35.0, "hm": 32.3077, "accuracy": 25.0, "ece": 9.0},
        "seeds": {str(number): trained for number in range(1, seeds + 1)},
        "summary": {"base": 50.0, "base_std": 0.0, "novel": 40.0, "hm": 44.4444, "accuracy": 41.0},
        "deliverable": {
            "seed": seed,
            "identity": adapters.identity(folder / "adapter"),
            "metrics": metrics,
            "confusion": [[3, 1, 0, 0], [0, 4, 0, 0], [1, 1, 2, 0], [0, 0, 0, 4]],
            "trained_on": [picture.content for picture in manifest.of("train")],
        },
    }
    write_json(folder / "run.json", record)
    return folder
