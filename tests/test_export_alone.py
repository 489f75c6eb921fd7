"""An exported folder in a fresh virtual environment with onnxruntime, numpy and Pillow, and nothing of mmlop's."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from make_adapter import make_adapter
from PIL import Image

from mmlop import backbone as backbones
from mmlop import export as exporting
from mmlop.classifier import Classifier
from mmlop.prompts import PromptShape

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
CLASSES = ("digit one", "digit two", "digit seven", "digit nine")


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a fresh virtual environment, with the versions this release is tested with."""
    folder = tmp_path_factory.mktemp("bare") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    packages = ["onnxruntime", "numpy", "pillow"]
    pip = [str(folder / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "-c", str(ROOT / "constraints.txt"), *packages], check=True)
    return folder / "bin" / "python"


def test_answers_are_those_of_mmlop(bare: Path, tmp_path: Path) -> None:
    mini = backbones.load("mini")
    shape = PromptShape(4, 2, 2, mini.vision_width, mini.text_width)
    make_adapter(mini, shape=shape, classes=CLASSES, temperature=1.4).save(tmp_path / "adapter")
    exporting.export(tmp_path / "adapter", tmp_path / "out")
    elsewhere = tmp_path / "elsewhere" / "given away"
    shutil.move(tmp_path / "out", elsewhere)

    files = []
    for index, (mode, suffix) in enumerate([("RGB", "png"), ("L", "png"), ("RGBA", "png"), ("P", "gif"), ("CMYK", "jpg")]):
        noise = np.random.default_rng(index).integers(0, 256, (6, 7 + index, 4), dtype=np.uint8)
        image = Image.fromarray(noise).resize((61 + 9 * index, 80)).convert("RGB" if mode == "CMYK" else "RGBA")
        exif = Image.Exif()
        exif[0x0112] = 1 + index
        files.append(tmp_path / f"{index}.{suffix}")
        image.convert(mode).save(files[-1], **({"exif": exif} if suffix != "gif" else {}))

    python = [str(bare), "-E"]  # whatever PYTHONPATH these tests run with
    for package in ("torch", "mmlop", "onnx"):
        missing = subprocess.run([*python, "-c", f"import {package}"], capture_output=True, cwd=tmp_path, check=False)
        assert missing.returncode == 1
    command = [*python, str(elsewhere / "predict.py"), *map(str, files), "--top", "4", "--json"]
    said = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (said.returncode, said.stderr) == (0, "")
    expected = Classifier.load(tmp_path / "adapter").predict(files)
    for file, line, one in zip(files, said.stdout.splitlines(), expected, strict=True):
        found = json.loads(line)
        assert found["path"] == str(file)
        assert tuple(pair["label"] for pair in found["labels"]) == one.labels
        assert [pair["score"] for pair in found["labels"]] == pytest.approx(one.scores, abs=1e-5)
