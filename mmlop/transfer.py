"""Adapters of one data set tested on others: cross-dataset transfer and domain generalisation.

transfer/<source>/<seed>/                 an adapter on all classes of the source, for each seed
results/transfer/<source>/<target>.jsonl  a record per measured number
results/transfer/<source>/<target>.json   the same as DVC's metrics
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from mmlop import evaluation as ev
from mmlop.adapter import Adapter
from mmlop.backbone import Backbone
from mmlop.classifier import Classifier
from mmlop.data.manifest import Fetched, Manifest
from mmlop.data.pictures import prepare_all
from mmlop.errors import MmlopError
from mmlop.evaluation import Metrics, rounded, summarise
from mmlop.experiment import Trained
from mmlop.features import frozen_images, frozen_text
from mmlop.files import replacing, write_json
from mmlop.results import Record, write_records


def save(folder: Path, trained: Mapping[int, Trained]) -> None:
    """Each seed's adapter into ``folder``, all or none."""
    with replacing(folder) as beside:
        for seed, one in trained.items():
            one.adapter.save(beside / str(seed))


def load(folder: Path) -> dict[int, Adapter]:
    """The adapters of a source by seed. Raises MmlopError if there are none."""
    found = {int(one.name): Adapter.load(one) for one in sorted(folder.glob("*")) if one.name.isdigit()}
    if not found:
        raise MmlopError(f"{folder} holds no adapters: train them first (`dvc repro source@{folder.name}`).")
    return found


def measure(adapters: Mapping[int, Adapter], backbone: Backbone, target: Fetched) -> tuple[Metrics, dict[int, Metrics]]:
    """Accuracy and calibration error on the target's test pictures, with all of the target's classes and no others as
    candidates: of the frozen CLIP with the target's template, and of each adapter.

    Raises MmlopError for a target without test pictures, and for one with classes that the adapters cannot score.
    """
    manifest = target.manifest
    classifiers = {seed: Classifier(adapter, backbone) for seed, adapter in adapters.items()}
    for classifier in classifiers.values():
        classifier.require_known(manifest.classes)
    pictures = manifest.of("test")
    if not pictures:
        raise MmlopError(f"{manifest.name} has no test pictures, so nothing can be transferred to it.")
    text = frozen_text(backbone, manifest.classes, [manifest.template])
    prepared = prepare_all(target, pictures, backbone.preprocessing.size)
    images = frozen_images(backbone, prepared, [picture.content for picture in pictures])
    labels = torch.tensor([picture.label for picture in pictures])
    zero_shot = _scores((backbone.logit_scale * images @ text.T).cpu(), labels)
    return zero_shot, {
        seed: _scores(classifier.logits(prepared, manifest.classes), labels) for seed, classifier in classifiers.items()
    }


def write(
    root: Path, source: Manifest, protocol: str, adapters: Mapping[int, Adapter], backbone: Backbone, target: Fetched
) -> Metrics:
    """Measure a source's adapters on a target, write its results and return their mean over seeds.

    They are marked as of a split of one's own where either data set has such.
    """
    zero_shot, per_seed = measure(adapters, backbone, target)
    info = next(iter(adapters.values())).info
    manifest, folder = target.manifest, root / "results" / "transfer" / source.name
    split = "own" if "own" in (source.split, manifest.split) else manifest.split
    about = {"dataset": manifest.name, "source": source.name, "split": split, "protocol": protocol}
    rows: list[Record] = [
        about | {"method": "zero_shot", "shots": 0, "seed": None, "metric": metric, "value": value}
        for metric, value in sorted(zero_shot.items())
    ]
    for seed, metrics in per_seed.items():
        which = {"method": info.method, "shots": info.origin.shots, "seed": seed}
        rows += [about | which | {"metric": metric, "value": value} for metric, value in sorted(metrics.items())]
    write_records(folder / f"{manifest.name}.jsonl", rows)
    summary = summarise(per_seed.values())
    kept = {name: value for name, value in summary.items() if name.startswith("accuracy")}
    write_json(folder / f"{manifest.name}.json", {"zero_shot": {"accuracy": zero_shot["accuracy"]}, info.method: kept})
    return summary | {"zero_shot": zero_shot["accuracy"]}


def _scores(logits: Tensor, labels: Tensor) -> Metrics:
    return {"accuracy": rounded(ev.top1(logits, labels)), "ece": rounded(ev.calibration_error(logits, labels))}
