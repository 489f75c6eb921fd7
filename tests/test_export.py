"""An exported adapter: the same scores as PyTorch's for every kind, the same pixels, and what is refused."""

from __future__ import annotations

import ast
import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from make_adapter import CLASSES, make_adapter
from make_run import save_backbone
from PIL import Image
from said import Run, error

from mmlop import backbone as backbones
from mmlop import export as exporting
from mmlop.adapter import Adapter, identity
from mmlop.backbone import Backbone
from mmlop.classifier import Classifier
from mmlop.config import Params
from mmlop.data import reading, splits
from mmlop.data.manifest import Fetched, Manifest, Picture, content_of
from mmlop.data.mini.benchmark import TASKS, render
from mmlop.data.pictures import prepare
from mmlop.errors import MmlopError
from mmlop.experiment import Bench
from mmlop.export import checking, graph, predict
from mmlop.lora import LoraShape
from mmlop.probe import ProbeShape
from mmlop.prompts import PromptShape
from mmlop.protocols import Training
from mmlop.shapes import NoShape, Shape
from mmlop.tip import CacheShape

pytest_plugins = ["cli_fixtures"]

ROOT = Path(__file__).parents[1]
OTHERS = ("violin", "cat", "a longer name of things")
SHAPES: dict[str, Shape] = {
    "both": PromptShape(2, 3, 2, 32, 32),
    "vision": PromptShape(2, 3, None, 32, 32, "full", "vision"),
    "text": PromptShape(2, 3, None, 32, 32, "full", "text"),
    "lora": LoraShape(2, 2, 2, 32, 32),
    "none": NoShape(),
    "probe": ProbeShape(len(CLASSES), 16),
    "cache": CacheShape(6, len(CLASSES), 16),
}

every = pytest.mark.parametrize("kind", SHAPES)


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_backbone(tmp_path_factory.mktemp("backbone") / "tiny")


@pytest.fixture(scope="module")
def clip(tiny_folder: Path) -> Backbone:
    return backbones.load(str(tiny_folder))


def adapter_of(clip: Backbone, kind: str, **changes: Any) -> Adapter:
    """Random factors, large enough to move every score."""
    shape = SHAPES[kind]
    generator = torch.Generator().manual_seed(1)
    factors = {name: torch.randn(size, generator=generator) / 3 for name, size in shape.factors.items()}
    if "strength" in factors:
        factors |= {"strength": torch.tensor([1.3, 0.7]), "keys": torch.nn.functional.normalize(factors["keys"], dim=1)}
    info = make_adapter(clip, temperature=1.7, **changes).info.model_copy(update={"shape": shape})
    return Adapter(factors, info)


@pytest.fixture(scope="module")
def saved(clip: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters") / "adapter"
    adapter_of(clip, "both").save(folder)
    return folder


@pytest.fixture(scope="module")
def exported(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "mmlop-pets"
    exporting.export(saved, folder)
    return folder


def picture(seed: int, width: int = 50, height: int = 40) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def run(file: Path, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    logits, probabilities = checking.session(file).run(["logits", "probabilities"], {"pictures": pixels.numpy()})
    return torch.from_numpy(logits), torch.from_numpy(probabilities)


# Scores


@every
@pytest.mark.parametrize("other", [False, True])
def test_what_is_written_computes_the_classifiers_scores(clip: Backbone, kind: str, other: bool) -> None:
    classifier = Classifier(adapter_of(clip, kind), clip)
    names = CLASSES[::-1][:2] if other and kind == "probe" else OTHERS if other else CLASSES
    pixels = torch.from_numpy(checking.sample(32, 5))
    with torch.no_grad():
        logits, probabilities = graph.Scores(classifier, names)(pixels)
    expected = classifier.logits(pixels, names)
    assert expected.std() > 0.03
    assert torch.allclose(logits, expected, atol=1e-4)
    assert torch.allclose(probabilities, classifier.probabilities(pixels, names), atol=1e-5)


@pytest.mark.slow
@every
def test_the_model_gives_the_scores_of_pytorch(clip: Backbone, tmp_path: Path, kind: str) -> None:
    adapter_of(clip, kind).save(tmp_path / "adapter")
    found = exporting.export(tmp_path / "adapter", tmp_path / "out")
    pixels = torch.from_numpy(checking.sample(32, 7))
    classifier = Classifier.load(tmp_path / "adapter")
    for batch in (pixels[:1], pixels):
        logits, probabilities = run(found.folder / "model.onnx", batch)
        assert (logits - classifier.logits(batch)).abs().max() < 1e-3
        assert (probabilities - classifier.probabilities(batch)).abs().max() < 1e-4


@pytest.mark.slow
def test_an_adapter_trained_in_bf16_is_exported_in_fp32(tiny_folder: Path, tmp_path: Path) -> None:
    low = backbones.load(str(tiny_folder), precision="bf16")
    adapter_of(low, "both").save(tmp_path / "adapter")
    found = exporting.export(tmp_path / "adapter", tmp_path / "out", OTHERS)
    about = json.loads((found.folder / "export.json").read_text())
    assert about["lineage"]["trained_in"] == "bf16"
    assert "trained in bf16 and exported in fp32" in (found.folder / "README.md").read_text()
    full = Classifier(adapter_of(low, "both"), backbones.load(str(tiny_folder)))
    pixels = torch.from_numpy(checking.sample(32, 3))
    logits, _ = run(found.folder / "model.onnx", pixels)
    assert (logits - full.logits(pixels, OTHERS)).abs().max() < 1e-3


# The folder


def test_the_folder_says_what_it_is(saved: Path, exported: Path) -> None:
    assert {file.name for file in exported.iterdir()} == {"model.onnx", "export.json", "predict.py", "README.md"}
    about = json.loads((exported / "export.json").read_text())
    assert about["labels"] == list(CLASSES)
    assert (about["size"], about["temperature"], about["opset"]) == (32, 1.7, 20)
    assert about["lineage"]["adapter"] == identity(saved)
    assert about["lineage"]["dataset"] == "pets"
    assert about["lineage"]["trained_in"] == "fp32"
    assert about["models"] == {"model.onnx": "fp32"}
    (given,) = checking.session(exported / "model.onnx").get_inputs()
    assert (given.name, given.type, given.shape[1:]) == ("pictures", "tensor(uint8)", [3, 32, 32])
    readme = (exported / "README.md").read_text()
    for text in ("python predict.py", "pets", identity(saved), "accuracy 87.50"):
        assert text in readme


def test_predict_needs_three_packages_and_nothing_else(exported: Path) -> None:
    source = (exported / "predict.py").read_text()
    imported = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            imported |= {name.name.partition(".")[0] for name in node.names}
        if isinstance(node, ast.ImportFrom):
            imported.add(str(node.module).partition(".")[0])
    assert imported - set(sys.stdlib_module_names) == {"numpy", "PIL", "onnxruntime"}
    assert source == Path(predict.__file__).read_text()


def alone(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(folder / "predict.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder.parent, check=False)


def test_predict_answers_as_mmlop_does(saved: Path, exported: Path, tmp_path: Path, mmlop: Run) -> None:
    files = [tmp_path / f"{index}.png" for index in range(3)]
    for index, file in enumerate(files):
        picture(index, 33 + index, 71 - index).save(file)
    lines = alone(exported, *files, "--top", 2).stdout
    assert lines == mmlop("predict", saved, *files, "--top", 2).out
    for mine, theirs in zip(
        alone(exported, *files, "--top", 9, "--json").stdout.splitlines(),
        mmlop("predict", saved, *files, "--top", 9, "--json").out.splitlines(),
        strict=True,
    ):
        found, expected = json.loads(mine), json.loads(theirs)
        assert found["path"] == expected["path"]
        assert [one["label"] for one in found["labels"]] == [one["label"] for one in expected["labels"]]
        scores = [one["score"] for one in expected["labels"]]
        assert [one["score"] for one in found["labels"]] == pytest.approx(scores, abs=1e-5)


def test_predict_names_a_bad_file_and_goes_on(saved: Path, exported: Path, tmp_path: Path, mmlop: Run) -> None:
    good, text, grey = tmp_path / "good.png", tmp_path / "text.png", tmp_path / "grey.tif"
    picture(0).save(good)
    text.write_text("no picture")
    Image.new("F", (4, 4), 0.5).save(grey)
    files = (text, tmp_path / "missing.png", good, grey, tmp_path)
    said = alone(exported, *files)
    assert said.returncode == 1
    assert said.stdout.startswith(f"{good}\t")
    assert said.stdout.count("\n") == 1
    errors = said.stderr.splitlines()
    assert len(errors) == 4
    assert "Is a directory" in errors[3]
    expected = mmlop("predict", saved, *files[:4]).err.splitlines()
    assert errors[:3] == [one for one in expected if one.startswith("Error")]


def test_predict_refuses_an_unknown_model(exported: Path, tmp_path: Path) -> None:
    picture(0).save(tmp_path / "a.png")
    said = alone(exported, tmp_path / "a.png", "--model", "model-int8.onnx")
    assert (said.returncode, said.stdout) == (1, "")
    assert said.stderr.startswith("Error: There is no model ")
    assert said.stderr.endswith("choose one of model.onnx.\n")


# Pixels

MODES = {"RGB": "PNG", "L": "PNG", "1": "PNG", "P": "PNG", "RGBA": "PNG", "LA": "PNG", "I;16": "PNG", "I;16B": "TIFF"}
MODES |= {"CMYK": "TIFF", "YCbCr": "JPEG", "LAB": "TIFF"}


def picture_file(width: int, height: int, mode: str, orientation: int, transparent: bool, seed: int) -> bytes:
    """The bytes of a picture file of noise."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 4), dtype=np.uint8)
    if mode.startswith("I;16"):
        values = (noise[..., 0].astype(np.uint16) * 251).astype("<u2" if mode == "I;16" else ">u2")
        image = Image.frombytes(mode, (width, height), values.tobytes())
    else:
        image = Image.fromarray(noise if mode in ("RGBA", "LA") else noise[..., :3].copy()).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, Any] = {"transparency": 3} if transparent and mode == "P" else {}
    file = io.BytesIO()
    image.save(file, MODES[mode], exif=exif, **options)
    return file.getvalue()


@settings(deadline=None)
@given(
    width=st.integers(1, 90),
    height=st.integers(1, 90),
    size=st.integers(1, 40),
    mode=st.sampled_from(sorted(MODES)),
    orientation=st.integers(1, 8),
    transparent=st.booleans(),
    seed=st.integers(0, 99),
)
def test_pixels_are_those_that_mmlop_prepares(
    width: int, height: int, size: int, mode: str, orientation: int, transparent: bool, seed: int
) -> None:
    data = picture_file(width, height, mode, orientation, transparent, seed)
    found = predict.prepare(predict.decode(data), size)
    assert found.shape == (3, size, size)
    assert found.dtype == np.uint8
    assert np.array_equal(found, prepare(reading.decode(data), size).numpy())


@pytest.mark.parametrize("side", range(8, 25))
def test_the_centre_is_rounded_as_torchvision_does(side: int) -> None:
    """Half pixels on both sides of even numbers, wide and high."""
    for shape in ((side, 8), (8, side), (side, 9), (7, side)):
        image = picture(side, *shape)
        assert np.array_equal(predict.prepare(image, 8), prepare(image, 8).numpy())


# Refused


def test_what_is_no_export_is_not_overwritten(saved: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    exporting.require_free(mine)  # nothing would be lost
    (mine / "model.onnx").touch()
    with pytest.raises(MmlopError, match="is no earlier export, and is not overwritten"):
        exporting.export(saved, mine)
    (mine / "export.json").write_text('{"made_by": "mmlop export"}')
    exporting.require_free(mine)
    (mine / "notes.txt").touch()
    with pytest.raises(MmlopError, match=r"holds notes\.txt, and is not overwritten"):
        exporting.export(saved, mine)
    with pytest.raises(MmlopError, match=r"notes\.txt is a file"):
        exporting.export(saved, mine / "notes.txt")
    with pytest.raises(MmlopError, match="Nothing can be written in"):
        exporting.export(saved, mine / "notes.txt" / "out")
    assert sorted(file.name for file in mine.iterdir()) == ["export.json", "model.onnx", "notes.txt"]


@pytest.mark.parametrize("name", exporting.NEEDED)
def test_a_missing_package_is_one_sentence(name: str, saved: Path, tmp_path: Path) -> None:
    """In a process that cannot import it: None in its place is what Python itself keeps for a module that is not there."""
    code = (
        f"import sys; sys.modules[{name!r}] = None\n"
        f"from pathlib import Path; from mmlop import export\n"
        f"export.export(Path({str(saved)!r}), Path({str(tmp_path / 'out')!r}))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert said.returncode == 1
    last = said.stderr.strip().splitlines()[-1]
    assert f"MmlopError: Exporting needs {name}" in last
    assert last.endswith("`pip install -e '.[export]'` in mmlop's folder.")
    assert not list(tmp_path.iterdir())


def test_classes_that_do_not_fit_are_refused(clip: Backbone, tmp_path: Path, mmlop: Run) -> None:
    adapter_of(clip, "probe").save(tmp_path / "probe")
    out = tmp_path / "out"
    assert "knows no other classes" in error(mmlop("export", tmp_path / "probe", "--out", out, "--classes", "cat,bus"))
    assert "named twice" in error(mmlop("export", tmp_path / "probe", "--out", out, "--classes", "cat,cat"))
    assert "no class to choose from" in error(mmlop("export", tmp_path / "probe", "--out", out, "--classes", " , "))
    assert "no format 'coreml'" in error(mmlop("export", tmp_path / "probe", "--out", out, "--format", "coreml"))
    assert not out.exists()


def test_a_model_that_disagrees_is_refused(saved: Path, exported: Path, clip: Backbone) -> None:
    adapter = Adapter.load(saved)
    moved = replace(adapter, factors={name: value * 1.01 for name, value in adapter.factors.items()})
    files = [exported / "model.onnx"]
    (same,) = checking.compare(files, Classifier(adapter, clip), CLASSES)
    assert same.difference < 1e-4
    with pytest.raises(MmlopError, match=r"logits differ by .* where 0\.001 is allowed"):
        checking.compare(files, Classifier(moved, clip), CLASSES)


# The command, and 8 bits


@pytest.mark.slow
def test_the_command_writes_its_default_folder_again_and_again(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mmlop: Run
) -> None:
    monkeypatch.chdir(tmp_path)
    said = mmlop("export", saved, "--int8", "--classes", "violin, cat")
    folder = Path("exported/mmlop-pets")
    assert said.code == 0
    for text in ("PyTorch", "ms for 1", "ms for 16", f"{folder}/model.onnx: ", f"{folder}/model-int8.onnx: "):
        assert text in said.out
    assert said.err == ""
    assert json.loads((folder / "export.json").read_text())["labels"] == ["violin", "cat"]
    picture(0).save(tmp_path / "a.png")
    assert alone(tmp_path / folder, tmp_path / "a.png", "--model", "model-int8.onnx").returncode == 0
    assert mmlop("export", saved).code == 0
    assert json.loads((folder / "export.json").read_text())["labels"] == list(CLASSES)
    assert not (folder / "model-int8.onnx").exists()
    assert [file.name for file in Path("exported").iterdir()] == ["mmlop-pets"]


def rendered(folder: Path, name: str, per_class: dict[str, int]) -> Fetched:
    """A small data set of the mini benchmark."""
    task, rows = TASKS[name], []
    counts: dict[str, int] = {}
    for part, label, image in render(task, 0, per_class):
        counts[part] = counts.get(part, 0) + 1
        file = folder / f"{part}-{counts[part]:04d}.png"
        image.save(file)
        rows.append(Picture(file.name, label, part, content_of(file.read_bytes())))
    return Fetched(Manifest(name, task.classes, task.template, "CC0", "rendered", tuple(rows)), folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mini_textures"])
def test_a_trained_adapter_keeps_its_labels_and_in_8_bits_its_accuracy(tmp_path: Path, name: str) -> None:
    (tmp_path / "pictures").mkdir()
    data = rendered(tmp_path / "pictures", name, {"train": 8, "val": 2, "test": 40})
    chosen = yaml.safe_load((ROOT / "params.yaml").read_text())
    chosen |= {"datasets": [name], "fewshot": {"shots": 8, "seeds": [1]}, "train": {"epochs": 4}}
    bench = Bench(Params.model_validate(chosen), backbones.load("mini"), data, splits.make(data.manifest, (8,), (1,)))
    trained = bench.run(Training("all_classes", 8), (1,))[1]
    trained.adapter.save(tmp_path / "adapter")
    folder = exporting.export(tmp_path / "adapter", tmp_path / "out", int8=True).folder
    pixels, labels = bench.prepared("test")
    expected = Classifier.load(tmp_path / "adapter").logits(pixels)
    full, small = (run(folder / model, pixels)[0] for model in ("model.onnx", "model-int8.onnx"))
    assert (full - expected).abs().max() < 1e-3
    assert torch.equal(full.argmax(dim=1), expected.argmax(dim=1))
    right = [int((found.argmax(dim=1) == labels).sum()) for found in (full, small)]
    assert right[0] > 2 * len(labels) / len(data.manifest.classes)  # it has learned something to lose
    assert right[0] - right[1] <= len(labels) / 100
    assert (small.argmax(dim=1) == full.argmax(dim=1)).double().mean() > 0.95
    assert (folder / "model-int8.onnx").stat().st_size < 0.4 * (folder / "model.onnx").stat().st_size
