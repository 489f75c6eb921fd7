"""An adapter as a folder that answers without PyTorch: an ONNX model and a `predict.py` of its own.

model.onnx        uint8 pictures in, logits and probabilities out; prompts and class texts are constants in it
model-int8.onnx   the same with weights of 8 bits, where it was asked for
export.json       what a program needs to know: the size of pictures, the labels, and where the model comes from
predict.py        classifies picture files with onnxruntime, numpy and Pillow alone
README.md         a card for people
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mmlop.errors import MmlopError
from mmlop.files import dump_json, replacing

if TYPE_CHECKING:
    from mmlop.classifier import Classifier
    from mmlop.export.checking import Model

MODEL, INT8, ABOUT = "model.onnx", "model-int8.onnx", "export.json"
OURS = {MODEL, f"{MODEL}.data", INT8, f"{INT8}.data", ABOUT, "predict.py", "README.md", "__pycache__"}
NEEDED = ("onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class Exported:
    folder: Path
    classes: tuple[str, ...]
    models: tuple[Model, ...]  # the files; with times, PyTorch before them


def export(adapter: Path, folder: Path, classes: Sequence[str] | None = None, int8: bool = False) -> Exported:
    """Write the adapter in the folder ``adapter`` to ``folder``, in fp32 whatever it was trained in, and check the result.

    ``classes`` are the candidates baked in; None takes those the adapter was trained on. With ``int8`` there is a second
    model, and the time that each takes is measured.

    Raises MmlopError where a package is missing, ``folder`` holds something else than an earlier export, the adapter or
    the classes do not fit, or the model's logits are not PyTorch's; nothing is then written.
    """
    require_packages()
    require_free(folder)
    from mmlop.export import checking, graph
    from mmlop.export.quantise import quantise

    classifier = _in_fp32(adapter)
    names = classifier.candidates(classes)
    scores = graph.Scores(classifier, names)
    with replacing(folder) as beside:
        beside.mkdir()
        files = [beside / MODEL, beside / INT8] if int8 else [beside / MODEL]
        graph.write(scores, files[0])
        if int8:
            quantise(*files)
        models = checking.compare(files, classifier, names)
        if int8:
            times = checking.timed(files, scores)
            models = [replace(one, seconds=times[one.name]) for one in (checking.Model("PyTorch"), *models)]
        _describe(beside, adapter, classifier, names, [file.name for file in files])
    return Exported(folder, names, tuple(models))


def require_packages() -> None:
    """Raise MmlopError for a package that exporting needs and that a plain installation of mmlop has not."""
    for name in NEEDED:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise MmlopError(
                f"Exporting needs {name}, which cannot be used ({error}): `pip install -e '.[export]'` in mmlop's folder."
            ) from error


def require_free(folder: Path) -> None:
    """Raise MmlopError where an export cannot be written to ``folder``, or would replace what is no export."""
    if folder.is_dir():
        names = {file.name for file in folder.iterdir()}
        others = sorted(names - OURS)
        if others or (names and not _is_export(folder)):
            what = f"holds {others[0]}" if others else "is no earlier export"
            raise MmlopError(f"{folder} {what}, and is not overwritten: choose another folder with --out, or remove it.")
    elif folder.exists():
        raise MmlopError(f"{folder} is a file, and is not overwritten: choose another folder with --out.")
    above = next(parent for parent in folder.absolute().parents if parent.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise MmlopError(f"Nothing can be written in {above}: choose another folder with --out.")


def _is_export(folder: Path) -> bool:
    try:
        return bool(json.loads((folder / ABOUT).read_text(encoding="utf-8"))["made_by"] == "mmlop export")
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _in_fp32(folder: Path) -> Classifier:
    """The adapter's classifier with its backbone in fp32: a backbone's fingerprint is that of the weights before a cast."""
    from mmlop import backbone as backbones
    from mmlop.adapter import Adapter
    from mmlop.classifier import Classifier

    adapter = Adapter.load(folder)
    wanted = adapter.info.backbone
    weights = None if wanted.weights == "local" else wanted.weights
    return Classifier(adapter, backbones.load(wanted.name, weights, "fp32", "cpu", wanted.resolution))


def _describe(folder: Path, adapter: Path, classifier: Classifier, classes: tuple[str, ...], models: Sequence[str]) -> None:
    """Everything in the folder but the models."""
    from mmlop.export import card

    about = card.about(adapter, classifier, classes, models)
    (folder / ABOUT).write_text(dump_json(about), encoding="utf-8")
    (folder / "README.md").write_text(card.readme(about), encoding="utf-8")
    shutil.copyfile(Path(__file__).with_name("predict.py"), folder / "predict.py")
