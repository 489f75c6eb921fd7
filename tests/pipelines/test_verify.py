"""`python -m pipelines.verify`: an adapter is trained again at its commit, and nothing but the answer is left of it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import torch
from clone import ROOT, Project
from make_run import make_run
from safetensors.torch import save_file

from mmlop import adapter as adapters
from mmlop import config, registry, restoring, verification
from mmlop.adapter import Adapter
from mmlop.errors import MmlopError
from mmlop.files import write_json
from mmlop.verification import Comparison
from pipelines import verify
from pipelines.worktree import checked_out

pytest_plugins = ["clone_fixtures", "project_fixtures"]

NAME = "mmlop-mini_digits"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
SAME: verification.Changes = {}
LIBRARY = {"origin.mode.libraries.torch": ("2.9.0", "2.10.0")}


def folder(path: Path, factors: dict[str, Any], **info: Any) -> Path:
    path.mkdir(parents=True)
    save_file({name: torch.tensor(value) for name, value in factors.items()}, path / "adapter.safetensors")
    write_json(path / "adapter.json", info)
    return path


@pytest.mark.parametrize(
    ("factors", "largest"),
    [
        ({"up": [0.5, 2.0], "down": [1.0]}, 0.0),
        ({"up": [0.5, 1.75], "down": [1.125]}, 0.25),
        ({"up": [0.5, 2.0], "down": [1.0, 1.0]}, None),
        ({"up": [0.5, 2.0]}, None),
    ],
)
def test_factors_are_compared_bit_by_bit(factors: dict[str, Any], largest: float | None, tmp_path: Path) -> None:
    one = folder(tmp_path / "one", {"up": [0.5, 2.0], "down": [1.0]}, metrics={"accuracy": 80.0})
    other = folder(tmp_path / "other", factors, metrics={"accuracy": 80.0})
    found = verification.compare(one, other)
    assert found == Comparison(largest == 0.0, largest, {}, {"accuracy": 80.0})
    assert found.identical == (largest == 0.0)


def test_adapter_json_is_compared_value_by_value(tmp_path: Path) -> None:
    origin = {"seed": 1, "mode": {"threads": 1, "libraries": {"torch": "2.9.0"}}}
    one = folder(tmp_path / "one", {}, origin=origin, metrics={"accuracy": 80.0})
    origin["mode"] = {"threads": 2, "libraries": {"torch": "2.9.0"}, "gpu": "H100"}
    found = verification.compare(one, folder(tmp_path / "other", {}, origin=origin, metrics={"accuracy": 81.0}))
    assert found.mode == {"threads": (1, 2), "gpu": (None, "H100")}
    assert found.others == {"metrics.accuracy": (80.0, 81.0)}
    assert not found.identical


@pytest.mark.parametrize(
    ("found", "dirty", "code", "says"),
    [
        (Comparison(True, 0.0, SAME, {}), True, 0, "adapter.safetensors and adapter.json are the same bits."),
        (
            Comparison(True, 0.0, LIBRARY, {}),
            False,
            0,
            "differs in what trained it alone, libraries.torch (2.9.0, now 2.10.0).",
        ),
        (
            Comparison(False, 3.1e-8, LIBRARY, {"accuracy": 87.5}),
            True,
            1,
            "the factors differ by up to 3.1e-08, the test accuracy agrees (87.50 %); likely because of what trained it, "
            "libraries.torch (2.9.0, now 2.10.0).",
        ),
        (
            Comparison(False, 0.5, {"metrics.accuracy": (87.5, 85.0)}, {"accuracy": 87.5}),
            True,
            1,
            "the test accuracy is 85.00 % instead of 87.50 %; perhaps because of changes that were not committed",
        ),
        (
            Comparison(False, 0.5, {"origin.seed": (1, 2)}, {"accuracy_estimate": 70.0}),
            False,
            1,
            "seed 2 came out best instead of seed 1, the factors differ by up to 0.5, the estimated accuracy agrees "
            "(70.00 %); device, machine, threads and libraries are those of then",
        ),
        (Comparison(False, None, SAME, {}), False, 1, "the factors have other names or shapes"),
        (
            Comparison(True, 0.0, {"classes": (["a"], ["b"])}, {}),
            False,
            1,
            'adapter.json differs in classes (["a"], now ["b"])',
        ),
    ],
)
def test_a_verdict_is_one_sentence(found: Comparison, dirty: bool, code: int, says: str) -> None:
    answer = verification.verdict("mmlop-x version 3", COMMIT, dirty, {"train.epochs": 3}, found)
    assert says in answer.sentence
    assert "at commit 0123456789" in answer.sentence
    assert "(train.epochs: 3)" in answer.sentence
    assert re.search(r"\.$", answer.sentence)
    assert "\n" not in answer.sentence
    assert answer.exit_code == code
    json.dumps(answer.as_dict(), allow_nan=False)


RECIPES: list[dict[str, Any]] = [
    {"prompts": {"rank": 2}, "train": {"epochs": 3, "averaging": {"mean": 0.5, "std": 0.1}}},
    {"method": "promptsrc", "train": {"averaging": False, "epochs": None, "steps_per_shot": 40}},
    {"method": "linear_probe"},
    {"method": "clip_lora", "lora": {"rank": 4}, "train": {"threads": 2, "learning_rate": 0.01}},
    {"method": "coop", "backbone": "vit-b-16", "fewshot": {"shots": 4, "seeds": [5]}},
    {"profiles": {"mini": {"precision": "bf16", "train": {"threads": None}}}},
]


@pytest.mark.parametrize("trained", RECIPES)
@pytest.mark.parametrize("committed", RECIPES)
def test_params_come_to_what_is_recorded(trained: dict[str, Any], committed: dict[str, Any]) -> None:
    """Whatever the params of the commit are; an adapter records the epochs that its steps came to."""
    there, recorded = params(committed), config.parse(params(trained), "").resolved()
    if recorded["train"]["steps_per_shot"]:
        recorded["train"]["epochs"] = 77
    differing = restoring.lacking(recorded, config.parse(there, "").resolved())
    assert bool(differing) == (trained != committed)
    again = restoring.restored(there, recorded)
    assert restoring.lacking(recorded, config.parse(again, "").resolved()) == {}


def params(changes: dict[str, Any]) -> dict[str, Any]:
    profiles: dict[str, Any] = {
        "mini": {
            "architecture": "mini",
            "templates": "mini",
            "train": {"epochs": 8, "flip": False, "threads": 1},
            "methods": {"mmlop": {"prompts": {"tokens": 2, "depth": 3}}},
        },
        "vit-b-16": {"architecture": "ViT-B-16-quickgelu", "weights": "openai"},
    }
    given = {**changes}
    for name, profile in given.pop("profiles", {}).items():
        profiles[name] = profiles[name] | profile
    return {"datasets": ["mini_digits"], "backbone": "mini", "profiles": profiles} | given


@pytest.mark.parametrize(
    ("lineage", "reason"),
    [
        ({}, "no commit is recorded"),
        ({"git_commit": COMMIT}, "commit 0123456789 is not in "),
    ],
)
def test_a_commit_that_is_not_here(lineage: dict[str, str], reason: str, project: Path, backbone: Path) -> None:
    subprocess.run(["git", "init", "-q"], cwd=project, check=True)
    registry.publish(make_run(project, "toy", backbone), lineage)
    for uri in ("mmlop-toy@champion", "mmlop-toy/1", "models:/mmlop-toy/1", "mmlop-toy"):
        found = verify.verify(uri)
        assert found.exit_code == 2
        assert found.sentence.startswith(f"{uri} cannot be verified: {reason}")
    assert "no alias 'best'; its aliases: champion" in verify.verify("mmlop-toy@best").sentence
    assert "no version '7'" in verify.verify("mmlop-toy/7").sentence


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project below a git repository's root, the current folder; temporary files are made in `tmp`."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.delenv("DVC_ROOT", raising=False)
    (tmp_path / "tmp").mkdir()
    folder = tmp_path / "repository" / "project"
    (folder / "pipelines").mkdir(parents=True)
    (folder / "pipelines/train.py").touch()
    (folder / "params.yaml").write_text("sources: {parts: {folder: photos}, tools: {table: /somewhere/tools.csv}}")
    for command in ("init", "add -A", "-c user.name=test -c user.email=test@example.org commit -m state"):
        subprocess.run(["git", *command.split(), *(["-q"] if command != "add -A" else [])], cwd=folder.parent, check=True)
    monkeypatch.chdir(folder)
    return folder


def git(clone: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=clone, check=True, capture_output=True, text=True).stdout.strip()


def test_a_worktree_has_stores_of_its_own(clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "DVC_EXP_NAME",
        "MLFLOW_REGISTRY_URI",
        "PREFECT_API_URL",
        "MMLOP_SLOT",
        "MMLOP_CACHE",
        "MLFLOW_TRACKING_URI",
    ):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    hook = clone.parent / ".git/hooks/post-checkout"
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/hooked")
    hook.chmod(0o755)
    (clone / "params.yaml").write_text("of today")
    with checked_out(git(clone, "rev-parse", "HEAD"), threads=3) as tree:
        assert "sources" in (tree.folder / "params.yaml").read_text()
        seen = json.loads(tree.python("-c", "import json, os; print(json.dumps([os.getcwd(), dict(os.environ)]))"))
        assert seen[0] == str(tree.folder)
        found = {name: value for name, value in seen[1].items() if "127.0.0.1" in value}
        assert found == {}
        mine = ("MLFLOW_TRACKING_URI", "PREFECT_HOME", "MMLOP_CACHE", "TMPDIR")
        assert all(str(tmp_path / "tmp") in seen[1][name] for name in mine)
        assert seen[1]["OMP_NUM_THREADS"] == "3"
        with pytest.raises(MmlopError, match=r"^the code of commit \w{10} says: No such thing\.$"):
            tree.python("-c", "import sys; print('Error: No such thing.', file=sys.stderr); sys.exit(1)")
    assert not (tmp_path / "hooked").exists()
    assert not tree.folder.exists()
    assert len(git(clone, "worktree", "list").splitlines()) == 1


def test_pictures_and_weights_stay_where_they_are(clone: Path) -> None:
    commit = git(clone, "rev-parse", "HEAD")
    (clone / "params.yaml").write_text("sources: {parts: {folder: moved}, birds: {folder: photos/birds}}")
    (clone / "weights.pt").write_text("weights")
    write_json(clone / "data/parts/manifest.json", {"hash": "1" * 64})
    with checked_out(commit) as tree:
        assert verify._sources(tree, "parts")["parts"] == {"folder": str(clone / "photos")}
        assert verify._sources(tree, "tools")["tools"] == {"table": "/somewhere/tools.csv"}
        assert verify._sources(tree, "birds")["birds"] == {"folder": str(clone / "photos/birds")}
        verify._link_weights(tree, {"architecture": "ViT-B-32", "weights": "weights.pt"})
        assert (tree.folder / "weights.pt").read_text() == "weights"
        verify._bring(tree, "data/parts", "data/parts/manifest.json", "1" * 64, "fetch", "parts")
        assert (tree.folder / "data/parts").readlink() == clone / "data/parts"
    assert (clone / "weights.pt").is_file()
    assert (clone / "data/parts/manifest.json").is_file()


ENDLESS = """
import subprocess, sys
from pipelines.worktree import checked_out
with checked_out(sys.argv[1]) as tree:
    tree.python("-c", "import subprocess, sys; print('at work', file=sys.stderr); subprocess.run(['sleep', '600'])")
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_an_end_half_way_leaves_nothing(number: signal.Signals, clone: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", ENDLESS, git(clone, "rev-parse", "HEAD")],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    assert process.stderr.readline() == "at work\n"
    (home,) = (tmp_path / "tmp").iterdir()
    process.send_signal(number)
    process.stderr.read()
    assert process.wait(60) in (128 + number, -number)
    assert not home.exists()
    assert len(git(clone, "worktree", "list").splitlines()) == 1
    assert not [entry for entry in Path("/proc").glob("[0-9]*/cwd") if str(home) in _target(entry)]


def _target(link: Path) -> str:
    try:
        return os.readlink(link)
    except OSError:
        return ""


class Trained:
    """A project whose `mini_digits` is registered, and what is seen of it from outside."""

    def __init__(self, project: Project, folder: Path) -> None:
        self.project, self.folder = project, folder
        self.temporary = folder / "tmp"
        self.temporary.mkdir()

    def verify(self, uri: str) -> subprocess.CompletedProcess[str]:
        return self.project.run("python", "-m", "pipelines.verify", uri, check=False, TMPDIR=str(self.temporary))

    def seen(self) -> dict[str, Any]:
        """Every file but git's, git's worktrees and status, Prefect's flow runs, and what is in the folder for temporary
        files."""
        files = (file for file in self.project.folder.rglob("*") if file.is_file())
        mine = [file for file in files if not {".git", "__pycache__"} & set(file.parts)]
        request = urllib.request.Request(
            f"{os.environ['PREFECT_API_URL']}/flow_runs/count", b"{}", {"Content-Type": "application/json"}
        )
        return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in mine} | {
            "worktrees": self.project.run("git", "worktree", "list").stdout,
            "status": self.project.run("git", "status", "--porcelain").stdout,
            "prefect": urllib.request.urlopen(request).read(),
            "temporary": sorted(self.temporary.iterdir()),
        }

    def stage(self, name: str) -> None:
        self.project.run("python", "-m", f"pipelines.{name}", "mini_digits")

    def tamper(self) -> None:
        """Register another adapter, of the commit that is checked out."""
        run = self.project.folder / "runs/mini_digits"
        adapter, record = Adapter.load(run / "adapter"), json.loads((run / "run.json").read_text())
        name = sorted(adapter.factors)[0]
        Adapter(adapter.factors | {name: adapter.factors[name] + 2**-10}, adapter.info).save(run / "adapter")
        record["deliverable"]["identity"] = adapters.identity(run / "adapter")
        write_json(run / "run.json", record)
        self.project.mmlop("registry", "sync", "mini_digits")


@pytest.fixture(scope="module")
def trained(prefect_server: str, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Version 1 is of params that were never committed."""
    where = tmp_path_factory.mktemp("verified")
    (where / "project").mkdir()
    found = Trained(Project(where / "project"), where)
    found.project.edit(
        datasets=["mini_digits"],
        data__per_class={"train": 4, "val": 4, "test": 4},
        fewshot__shots=2,
        fewshot__seeds=[1, 2],
        train__epochs=2,
    )
    found.project.commit()
    found.project.edit(prompts__rank=2)
    for stage in ("fetch", "split", "train"):
        found.stage(stage)
    return found


@pytest.mark.slow
def test_the_same_bits_come_out_and_nothing_else_changes(trained: Trained) -> None:
    """Also where the pictures are not there any more, but can be made again."""
    shutil.rmtree(trained.project.folder / "data")
    before = trained.seen()
    said = trained.verify(f"{NAME}@champion")
    assert said.returncode == 0, said.stdout
    assert f"{NAME} version 1 is identical, trained again at commit " in said.stdout
    assert "(prompts.rank: 2): adapter.safetensors and adapter.json are the same bits." in said.stdout
    assert trained.seen() == before


@pytest.mark.slow
def test_another_adapter_is_told_from_what_its_commit_gives(trained: Trained) -> None:
    trained.stage("fetch")
    trained.project.commit()
    trained.tamper()
    before = trained.seen()
    said = trained.verify(f"models:/{NAME}/2")
    assert said.returncode == 1, said.stdout
    assert "version 2 is different" in said.stdout
    assert "the factors differ by up to 0.00098, the test accuracy agrees" in said.stdout
    assert trained.seen() == before


@pytest.mark.slow
def test_data_that_are_not_to_be_had_any_more(trained: Trained) -> None:
    trained.project.edit(data__seed=5)
    trained.project.commit()
    trained.tamper()  # of the data of before
    trained.stage("fetch")
    before = trained.seen()
    said = trained.verify(f"{NAME}/3")
    assert said.returncode == 2, said.stdout
    assert f"{NAME}/3 cannot be verified: data/mini_digits is not what it was trained on (hash " in said.stdout
    assert trained.seen() == before
