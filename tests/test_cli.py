"""The command line as a user meets it: help, output, and one sentence for every mistake."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from make_run import CLASSES, make_run, relabel
from said import Run, error

from mmlop.adapter import Adapter
from mmlop.methods import METHODS
from mmlop.probe import ProbeShape

pytest_plugins = ["cli_fixtures", "project_fixtures"]


@pytest.fixture
def run(project: Path, backbone: Path) -> Path:
    """A trained data set `toy`, on disk and in the registry."""
    return make_run(project, "toy", backbone)


COMMANDS = [
    *("train", "evaluate", "predict", "report", "status", "deploy", "worker", "retrain", "methods", "benchmark"),
    *("data list", "data add", "data fetch", "data split", "data show", "data docs", "params check", "mini pretrain"),
    *("registry list", "registry show", "registry promote", "registry sync"),
    *("registry compare", "registry rollback", "registry verify", "serve", "export", "drift"),
]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(mmlop: Run, command: str) -> None:
    said = mmlop(*command.split(), "--help")
    assert said.code == 0
    assert "Usage: mmlop" in said.out
    described = [line for line in said.out.splitlines() if line.strip() and "Usage" not in line]
    assert described[0].strip().endswith(".")


def test_help_imports_nothing_heavy() -> None:
    heavy = "torch mlflow prefect dvc open_clip numpy pydantic PIL"
    code = (
        "import sys; sys.argv = ['mmlop', '--help']\nfrom mmlop import cli\n"
        "try: cli.main()\nexcept SystemExit: pass\n"
        f"print([m for m in {heavy.split()!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Adapt CLIP" in done.stdout
    assert done.stdout.strip().endswith("[]")


def test_unknown_command_and_option(mmlop: Run) -> None:
    assert mmlop("pedict").code == 2
    assert mmlop("data", "list", "--jsno").code == 2


def test_params_check(mmlop: Run, project: Path) -> None:
    file = project / "params.yaml"
    file.write_text(file.read_text().replace("toy", "mini_digits"))
    assert json.loads(mmlop("params", "check", "--json").out)["prompts"]["rank"] == 1
    assert "prompts.rank" in mmlop("params", "check").out
    for key, name in (("test_sets: [imagenet_b]", "imagenet_b"), ("data: {own_split: [eurosatt]}", "eurosatt")):
        valid = file.read_text()
        file.write_text(f"{valid}{key}\n")
        assert f"There is no data set '{name}'. Known: " in error(mmlop("params", "check"))
        file.write_text(valid)
    file.write_text(file.read_text() + "prompt: {rank: 1}\n")
    assert "no key 'prompt'; known keys: prompts" in error(mmlop("params", "check"))


def test_params_check_of_another_method(mmlop: Run, project: Path) -> None:
    file = project / "params.yaml"
    file.write_text(file.read_text().replace("toy", "mini_digits") + "method: clip_lora\n")
    found = json.loads(mmlop("params", "check", "--json").out)
    assert (found["method"], found["lora"]) == ("clip_lora", {"rank": 2, "alpha": 1})
    assert "prompts" not in found
    assert found["train"]["steps_per_shot"] == 500
    shown = mmlop("params", "check").out
    assert "lora.rank" in shown
    assert "clip_lora" in shown
    file.write_text(file.read_text().replace("clip_lora", "clip_lore"))
    assert "there is no method 'clip_lore': choose one of clip_lora, " in error(mmlop("params", "check"))


def test_methods(mmlop: Run, project: Path) -> None:
    listed = json.loads(mmlop("methods", "--json").out)
    assert set(listed) == set(METHODS)
    shown = mmlop("methods").out
    assert all(name in shown for name in METHODS)
    one = json.loads(mmlop("methods", "maple", "--json").out)
    assert one == listed["maple"]
    assert one["settings"]["prompts"] == {"encoders": "both", "form": "coupled", "tokens": 2, "depth": 9}
    said = mmlop("methods", "maple").out
    assert "arXiv 2210.03117" in said
    assert "prompts.form" in said
    for name in ("zero_shot", "linear_probe"):
        said = mmlop("methods", name).out
        assert said.endswith(f"It has no settings. Source: {METHODS[name].source}\n")
        assert "key" not in said
    assert "There is no method 'mapel': choose one of maple, " in error(mmlop("methods", "mapel"))


def test_predict_with_a_linear_probe(mmlop: Run, project: Path, run: Path) -> None:
    """It answers for its own classes, and says of others that it does not know them."""
    info = Adapter.load(run / "adapter").info
    shape = ProbeShape(len(CLASSES), 16)
    factors = {name: torch.linspace(-1, 1, math.prod(size)).view(size) for name, size in shape.factors.items()}
    changes = {"method": "linear_probe", "shape": shape, "drift_correction": False}
    Adapter(factors, info.model_copy(update=changes)).save(project / "probe")
    picture = next((project / "data/toy/pictures").iterdir())
    said = mmlop("predict", project / "probe", picture, "--classes", "cat, dog", "--json", "--top", 2)
    assert {one["label"] for one in json.loads(said.out)["labels"]} == {"cat", "dog"}
    said = mmlop("predict", project / "probe", picture, "--classes", "cat, zebra")
    assert (said.code, said.out) == (1, "")
    assert "was not trained on 'zebra', and knows no other classes than " in said.err
    assert json.loads(mmlop("evaluate", project / "probe", "--part", "val", "--json").out)["pictures"] == 40


def test_predict_names_the_label_set_and_survives_a_bad_file(mmlop: Run, project: Path, run: Path) -> None:
    pictures = project / "some"
    pictures.mkdir()
    good = sorted((project / "data/toy/pictures").iterdir())[:3]
    for file in good:
        (pictures / file.name).write_bytes(file.read_bytes())
    (pictures / "001b.png").write_bytes(b"no picture")
    said = mmlop("predict", run / "adapter", pictures, "--top", 2)
    assert said.code == 1
    lines = said.out.splitlines()
    assert [line.split("\t")[0] for line in lines] == [str(pictures / file.name) for file in good]
    assert all(len(line.split("\t")) == 3 and "%" in line for line in lines)
    assert f"Scoring 4 classes of toy: {', '.join(CLASSES)}" in said.err
    assert f"{pictures / '001b.png'} is not a readable picture" in said.err

    (pictures / "001b.png").unlink()
    said = mmlop("predict", run / "adapter", pictures, "--classes", "zebra, cat", "--json", "--top", 9)
    assert said.code == 0
    for line in said.out.splitlines():
        labels = json.loads(line)["labels"]
        assert {one["label"] for one in labels} == {"zebra", "cat"}
        assert sum(one["score"] for one in labels) == pytest.approx(1)
    assert "given with --classes" in mmlop("predict", run / "adapter", good[0], "--classes", "zebra").err


def test_evaluate(mmlop: Run, project: Path, run: Path) -> None:
    relabel(project, "toy", run / "adapter", wrong=10)
    score = json.loads(mmlop("evaluate", run / "adapter", "--part", "val", "--json").out)
    assert score["pictures"] == 40
    assert score["accuracy"] == pytest.approx(75)  # relabel() made the first ten of forty wrong
    assert "accuracy 75.00 %" in mmlop("evaluate", run / "adapter", "--part", "val").out
    assert "There is no part 'valid': choose one of val" in error(mmlop("evaluate", run / "adapter", "--part", "valid"))
    assert "mmlop data fetch" in error(mmlop("evaluate", run / "adapter", "--dataset", "toys"))


def test_registry(mmlop: Run, project: Path, run: Path) -> None:
    assert "version 1" in mmlop("registry", "sync").out
    assert "already registered" in mmlop("registry", "sync", "toy").out
    (listed,) = json.loads(mmlop("registry", "list", "--json").out)
    assert (listed["name"], listed["version"], listed["aliases"]) == ("mmlop-toy", 1, ["champion"])
    assert "mmlop-toy" in mmlop("registry", "list", "toy").out
    shown = json.loads(mmlop("registry", "show", "models:/mmlop-toy@champion", "--json").out)
    assert shown["origin"]["dataset"] == "toy"
    assert "origin.seed" in mmlop("registry", "show", "models:/mmlop-toy/1").out
    assert mmlop("registry", "promote", "toy", 1).code == 0
    picture = next((project / "data/toy/pictures").iterdir())
    assert mmlop("predict", "models:/mmlop-toy@champion", picture).code == 0
    assert "champion" in error(mmlop("predict", "models:/mmlop-toy@champoin", picture))
    assert "mmlop-toy" in error(mmlop("predict", "models:/mmlop-toys@champion", picture))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["train", "imagnet"], "no data set 'imagnet'"),
        (["predict", "nowhere", "a.png"], "no adapter"),
        (["report"], "There are no results at"),
    ],
)
def test_mistakes(mmlop: Run, project: Path, arguments: list[str], says: str) -> None:
    assert says in error(mmlop(*arguments))


def test_a_word_the_mini_clip_never_saw(mmlop: Run, project: Path) -> None:
    from mmlop import backbone as backbones
    from mmlop.errors import MmlopError
    from mmlop.features import prompted_tokens

    with pytest.raises(MmlopError, match="never saw the word 'zebra'"):
        prompted_tokens(backbones.load("mini"), ["zebra"], 2)
