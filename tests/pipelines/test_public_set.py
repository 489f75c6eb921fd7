"""A public data set in a DATA folder that CoOp's code used before, with a split of its own, through a real pipeline."""

from __future__ import annotations

import json
import shutil
import socket
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from clone import Project
from make_run import save_backbone
from public_archives import jpeg

pytest_plugins = ["clone_fixtures"]

LAND = {
    "AnnualCrop": "Annual Crop Land",
    "Forest": "Forest",
    "HerbaceousVegetation": "Herbaceous Vegetation Land",
    "Highway": "Highway or Road",
    "Industrial": "Industrial Buildings",
    "Pasture": "Pasture Land",
    "PermanentCrop": "Permanent Crop Land",
    "Residential": "Residential Buildings",
    "River": "River",
    "SeaLake": "Sea or Lake",
}
EACH = 20  # pictures of each class
VAL, TEST = 4, 5  # of each class; the rest is for training
TRACEBACK = "Traceback (most recent call last)"


def lay_out(where: Path) -> None:
    """EuroSAT's folders with a few pictures, and a split file of those, not the published one."""
    rows: dict[str, list[list[Any]]] = {"train": [], "val": [], "test": []}
    for label, (folder, name) in enumerate(LAND.items()):
        (where / "2750" / folder).mkdir(parents=True)
        picture = jpeg(folder, label)
        for number in range(EACH):
            path = f"{folder}/{folder}_{number + 1}.jpg"
            (where / "2750" / path).write_bytes(picture + b"%d" % number)  # after its end, where it changes no pixel
            part = "val" if number < VAL else "test" if number < VAL + TEST else "train"
            rows[part].append([path, label, name])
    (where / "split_zhou_EuroSAT.json").write_text(json.dumps(rows))


@pytest.fixture(scope="module")
def coop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The data set's folder in a data home that MMLOP_DATA names."""
    home = tmp_path_factory.mktemp("DATA")
    lay_out(home / "eurosat")
    patch = pytest.MonkeyPatch()
    patch.setenv("MMLOP_DATA", str(home))
    yield home / "eurosat"
    patch.undo()


@pytest.fixture(scope="module")
def project(coop: Path, tmp_path_factory: pytest.TempPathFactory, prefect_server: str) -> Project:
    """EuroSAT alone, with a CLIP that knows all words, though nothing of them."""
    project = Project(tmp_path_factory.mktemp("public"))
    backbone = save_backbone(tmp_path_factory.mktemp("backbone") / "tiny")
    profile = {"architecture": str(backbone), "prompts": {"tokens": 2, "depth": 2}}
    profile["train"] = {"epochs": 2, "threads": 1, "parallel_seeds": True}
    project.edit(datasets=["eurosat"], backbone="tiny", profiles__tiny=profile, fewshot={"shots": 2, "seeds": [1, 2]})
    project.commit()
    return project


@pytest.fixture(scope="module")
def refused(project: Project) -> str:
    """What `dvc repro` says as long as nobody said that another split will do."""
    done = project.run("dvc", "repro", check=False)
    assert done.returncode != 0
    assert not (project.folder / "data/eurosat").exists()
    return done.stdout


@pytest.fixture(scope="module")
def trained(project: Project, refused: str) -> Project:
    """After a fetch that allows it, and `dvc repro`."""
    said = project.mmlop("data", "fetch", "eurosat", "--own-split").stdout
    assert f"eurosat: {EACH * len(LAND)} pictures of 10 classes (own split)" in said
    project.run("dvc", "repro")
    project.commit()
    return project


def manifest(project: Project) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((project.folder / "data/eurosat/manifest.json").read_text())
    return found


def test_a_split_that_is_not_the_published_one_is_refused(refused: str, coop: Path) -> None:
    assert f"Error: {coop / 'split_zhou_EuroSAT.json'} is not the split that papers use" in refused
    assert "if this one will do, add eurosat to `data.own_split` in params.yaml" in refused
    assert "`mmlop data fetch eurosat --own-split`" in refused
    assert TRACEBACK not in refused


def test_numbers_on_a_split_of_ones_own_are_marked(trained: Project) -> None:
    records = [json.loads(line) for line in (trained.folder / "results/eurosat.jsonl").read_text().splitlines()]
    assert {record["split"] for record in records} == {"own"}
    assert {record["protocol"] for record in records} == {"base_to_novel", "all_classes"}
    assert all(0 <= record["value"] <= 100 for record in records)
    run = json.loads((trained.folder / "runs/eurosat/run.json").read_text())
    assert run["classes"] == list(LAND.values())
    assert sum(map(sum, run["deliverable"]["confusion"])) == TEST * len(LAND)
    summary = (trained.folder / "reports/summary.md").read_text()
    assert "| eurosat * |" in summary
    assert "* on a split of one's own: these numbers do not compare with those of papers." in summary


def test_pictures_stay_where_they_are(trained: Project) -> None:
    assert [file.name for file in (trained.folder / "data/eurosat").iterdir()] == ["manifest.json"]
    found = manifest(trained)
    assert (found["split"], found["licence"], len(found["pictures"])) == ("own", "MIT", EACH * len(LAND))
    assert found["pictures"][0][:3] == ["AnnualCrop/AnnualCrop_10.jpg", 0, "train"]
    assert not list(trained.folder.glob("**/*_10.jpg"))


def test_a_later_fetch_reads_only_what_changed(trained: Project, coop: Path) -> None:
    """Though DVC sees no change at all: the stage is run."""
    before = (trained.folder / "data/eurosat/manifest.json").read_bytes()
    with closing(sqlite3.connect(coop / ".hashes.sqlite")) as connection, connection:
        assert connection.execute("SELECT count(*) FROM files").fetchone() == (EACH * len(LAND),)
        # A hash that is not that of the file shows where the next one comes from.
        connection.execute("UPDATE files SET content = ? WHERE path = ?", ("0" * 16, "River/River_20.jpg"))
    assert "River/River_20.jpg for one" in trained.mmlop("data", "fetch", "eurosat", check=False).stdout
    (coop / "2750/River/River_20.jpg").touch()
    trained.mmlop("data", "fetch", "eurosat")
    assert (trained.folder / "data/eurosat/manifest.json").read_bytes() == before


def test_a_second_repro_does_nothing(trained: Project) -> None:
    said = trained.run("dvc", "repro").stdout
    assert "Running stage" not in said
    assert "up to date" in said
    trained.mmlop("data", "fetch", "eurosat")  # which looks at the pictures again, and finds them as they were
    assert json.loads(trained.run("dvc", "status", "--json").stdout) == {}


def test_commands_know_it_like_any_other(trained: Project) -> None:
    (listed,) = (one for one in json.loads(trained.mmlop("data", "list", "--json").stdout) if one["name"] == "eurosat")
    assert (listed["kind"], listed["classes"], listed["fetched"]) == ("public", 10, True)
    shown = json.loads(trained.mmlop("data", "show", "eurosat", "--json").stdout)
    assert (shown["split"], shown["pictures"]) == ("own", {"train": 110, "val": 40, "test": 50})
    assert [one["half"] for one in shown["classes"]] == ["base"] * 5 + ["novel"] * 5
    assert Path(shown["sheet"]).is_file()
    run = json.loads((trained.folder / "runs/eurosat/run.json").read_text())
    score = json.loads(trained.mmlop("evaluate", "models:/mmlop-eurosat@champion", "--json").stdout)
    assert score["pictures"] == 50
    assert score["accuracy"] == pytest.approx(run["deliverable"]["metrics"]["accuracy"], abs=1e-3)


def test_training_without_the_pictures_says_so(trained: Project, coop: Path) -> None:
    (coop / "2750").rename(coop / "elsewhere")
    try:
        done = trained.run("python", "-m", "pipelines.train", "eurosat", check=False)
    finally:
        (coop / "elsewhere").rename(coop / "2750")
    assert done.returncode == 1
    (sentence,) = [line for line in done.stdout.splitlines() if line.startswith("Error: ")]
    assert f"The picture {coop / '2750'}/" in sentence
    assert "is not, or no longer, on this machine: fetch its data set again (`mmlop data fetch NAME`)." in sentence
    assert TRACEBACK not in done.stdout
    assert trained.run("git", "status", "--porcelain").stdout == ""  # what was there is there


@pytest.mark.parametrize(
    "command",
    [("python", "-m", "pipelines.fetch", "dtd"), ("python", "-m", "mmlop.cli", "data", "fetch", "dtd")],
    ids=["stage", "command"],
)
def test_without_a_network_it_says_so_soon_and_what_it_tries(project: Project, command: tuple[str, ...]) -> None:
    with socket.socket() as bound:  # nobody listens there, nor can anybody begin to
        bound.bind(("127.0.0.1", 0))
        proxy = f"http://127.0.0.1:{bound.getsockname()[1]}"
        started = time.monotonic()
        done = project.run(*command, check=False, http_proxy=proxy, https_proxy=proxy, no_proxy="", NO_PROXY="")
    assert time.monotonic() - started < 15
    assert done.returncode == 1
    *steps, sentence = done.stdout.splitlines()
    asked = [step for step in steps if "split_zhou_DescribableTextures.json: asking " in step]
    assert len(asked) == 2
    assert sum("once more in 1 s" in step for step in steps) == 2
    assert sentence.startswith("Error: DTD: the split that papers use cannot be had: split_zhou_DescribableTextures.json")
    assert "no connection through the proxy" in sentence
    assert not (project.folder / "data/dtd").exists()


def test_a_damaged_manifest_is_written_anew(trained: Project) -> None:
    file = trained.folder / "data/eurosat/manifest.json"
    before = file.read_bytes()
    file.unlink()  # it may be a link into DVC's cache
    file.write_bytes(before[:200])
    said = trained.mmlop("data", "fetch", "eurosat").stdout
    assert f"eurosat is not compared with an earlier fetch, whose manifest is of no use ({file} is not a manifest" in said
    assert file.read_bytes() == before


def test_a_picture_that_changed_is_accepted_only_by_hand(trained: Project, coop: Path) -> None:
    """Last of these: it changes the data set."""
    before = manifest(trained)
    (coop / "2750/River/River_7.jpg").write_bytes((coop / "2750/Forest/Forest_7.jpg").read_bytes())
    done = trained.mmlop("data", "fetch", "eurosat", check=False)
    assert done.returncode != 0
    assert (
        "Error: eurosat: 1 pictures are not those fetched before, River/River_7.jpg for one: remove "
        f"{trained.folder / 'data/eurosat'} to accept them"
    ) in done.stdout
    assert manifest(trained) == before

    shutil.rmtree(trained.folder / "data/eurosat")
    trained.mmlop("data", "fetch", "eurosat")
    after = manifest(trained)
    contents = {path: content for path, _, _, content in after["pictures"]}
    assert contents["River/River_7.jpg"] == contents["Forest/Forest_7.jpg"]
    assert sum(old != new for old, new in zip(before["pictures"], after["pictures"], strict=True)) == 1
    assert "split@eurosat" in json.loads(trained.run("dvc", "status", "--json").stdout)
