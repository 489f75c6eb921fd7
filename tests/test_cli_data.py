"""`mmlop data ...` as a user meets it: every kind of data set, and one sentence for every mistake."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from clone import ROOT, Project
from photos import photo, photos
from said import Run, error

from mmlop.data import public
from mmlop.data.manifest import SPLITS, Manifest

pytest_plugins = ["cli_fixtures", "project_fixtures"]


@pytest.fixture
def shipped(empty_project: Path) -> Path:
    """A project with the shipped params.yaml."""
    shutil.copy(ROOT / "params.yaml", empty_project)
    return empty_project


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return photos(tmp_path / "my photos", {"nut": 12, "Schrauben größer": 12})


def entered(project: Path) -> tuple[list[str], dict[str, dict[str, object]]]:
    params = yaml.safe_load((project / "params.yaml").read_text())
    return params["datasets"], params["sources"]


# list, show, split


def test_list_says_of_what_kind_each_is(mmlop: Run, shipped: Path, pictures: Path) -> None:
    mmlop("data", "add", "parts", pictures)
    listed = {one["name"]: one for one in json.loads(mmlop("data", "list", "--json").out)}
    assert set(listed["parts"]) == {"name", "kind", "variant_of", "classes", "fetched", "description"}
    digits, parts, variant = listed["mini_digits"], listed["parts"], listed["imagenet_a"]
    assert (digits["kind"], digits["classes"], digits["fetched"]) == ("built-in", 10, False)
    assert (parts["kind"], parts["classes"], parts["description"]) == ("own", 2, f"your own pictures in {pictures}")
    assert (variant["kind"], variant["variant_of"], variant["classes"]) == ("public", "imagenet", 200)
    shown = mmlop("data", "list").out
    assert "public, variant of imagenet" in shown
    shutil.rmtree(pictures)
    (line,) = [line for line in mmlop("data", "list").out.splitlines() if line.startswith("parts")]
    assert line.split()[:4] == ["parts", "own", "?", "no"]


def test_show(mmlop: Run, empty_project: Path) -> None:
    assert "fetch the data set first" in error(mmlop("data", "show", "mini_digits"))
    assert mmlop("data", "fetch", "mini_digits", "--quiet").out == ""
    shown = json.loads(mmlop("data", "show", "mini_digits", "--json").out)
    assert [c["half"] for c in shown["classes"]] == ["base"] * 5 + ["novel"] * 5
    assert shown["classes"][0]["train"] == 32
    said = mmlop("data", "show", "mini_digits").out
    assert shown["template"] in said
    assert "split: rendered" in said


# add


def test_add_checks_enters_and_says_what_was_found(mmlop: Run, shipped: Path, pictures: Path) -> None:
    said = mmlop("data", "add", "parts", pictures, "--template", "a photo of a {}, a machine part.", "--licence", "mine")
    assert said.code == 0
    assert said.out.startswith("parts: 24 pictures (")
    assert " train, " in said.out
    assert " of 2 classes\n" in said.out
    assert "Next: `mmlop train parts`, or `dvc repro`" in said.out
    names, sources = entered(shipped)
    assert names[-1] == "parts"
    template = "a photo of a {}, a machine part."
    assert sources == {"parts": {"folder": str(pictures), "template": template, "licence": "mine"}}
    assert mmlop("params", "check").code == 0


def test_add_a_table_that_is_inside_the_project(mmlop: Run, shipped: Path, pictures: Path) -> None:
    rows = [f"{pictures}/nut/{n}.png,nut,{'train' if n < 4 else 'test'}" for n in range(6)]
    rows += [row.replace("nut", "Schrauben größer") for row in rows]
    (shipped / "lists").mkdir()
    (shipped / "lists/all.csv").write_text("\n".join(["path,label,split", *rows]), encoding="utf-8")
    said = mmlop("data", "add", "parts", "lists/all.csv", "--quiet")
    assert (said.code, said.out) == (0, "")
    assert entered(shipped)[1]["parts"]["table"] == "lists/all.csv"
    assert mmlop("data", "add", "again", shipped / "lists/all.csv").out.startswith(
        "again: 12 pictures (8 train, 4 test) of 2 classes\n"
    )


def test_add_says_why_there_are_no_parts(mmlop: Run, shipped: Path, pictures: Path) -> None:
    photo(pictures / "washer/0.png", 500)
    said = mmlop("data", "add", "parts", pictures).out
    assert f"25 pictures (25 train) of 3 classes; {SPLITS['k-fold']}" in said


def test_a_table_that_leaves_nothing_for_testing_is_not_added(mmlop: Run, shipped: Path, pictures: Path) -> None:
    before = (shipped / "params.yaml").read_bytes()
    rows = [f"{name}/{n}.png,{name},train" for name in ("nut", "Schrauben größer") for n in range(12)]
    (pictures / "all.csv").write_text("\n".join(["path,label,split", *rows]), encoding="utf-8")
    assert "but none the part test" in error(mmlop("data", "add", "parts", pictures / "all.csv"))
    assert (shipped / "params.yaml").read_bytes() == before


def test_nothing_broken_is_added(mmlop: Run, shipped: Path, pictures: Path) -> None:
    before = (shipped / "params.yaml").read_bytes()
    (pictures / "nut/bad.png").touch()
    assert "nut/bad.png (an empty file): correct" in error(mmlop("data", "add", "parts", pictures))
    assert (shipped / "params.yaml").read_bytes() == before
    said = mmlop("data", "add", "parts", pictures, "--skip-bad")
    assert said.code == 0
    assert "24 pictures" in said.out
    assert "1 left out, nut/bad.png (an empty file) for one" in said.out
    assert entered(shipped)[1]["parts"]["skip_bad"] is True


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["parts", "nowhere"], "nowhere does not exist"),
        (["parts", "~nobody-of-that-name/photos"], "photos does not exist"),
        (["parts", "nowhere.csv"], "nowhere.csv does not exist"),
        (["parts", "params.yaml"], "params.yaml is neither a folder nor a table"),
        (["Parts", "."], "'Parts' cannot be a data set's name"),
        (["mini_digits", "."], "There is a data set 'mini_digits' already"),
        (["eurosat", "."], "There is a data set 'eurosat' already"),
        (["parts", ".", "--template", "a photo"], "The template 'a photo' will not do"),
        (["parts", "empty"], "holds 0 class folders"),
    ],
)
def test_what_cannot_be_added(mmlop: Run, shipped: Path, arguments: list[str], says: str) -> None:
    (shipped / "empty").mkdir()
    before = (shipped / "params.yaml").read_bytes()
    assert says in error(mmlop("data", "add", *arguments))
    assert (shipped / "params.yaml").read_bytes() == before


# fetch


def test_fetch_of_own_pictures_refers_to_them(mmlop: Run, shipped: Path, pictures: Path) -> None:
    mmlop("data", "add", "parts", pictures)
    file = shipped / "params.yaml"
    file.write_text(file.read_text().replace("  - parts\n", ""))  # as a set only to be looked at: no stage of DVC's
    said = mmlop("data", "fetch", "parts")
    assert said.code == 0
    assert said.out.startswith("parts: 24 pictures (")
    assert [one.name for one in (shipped / "data/parts").iterdir()] == ["manifest.json"]
    manifest = Manifest.load(shipped / "data/parts/manifest.json")
    assert manifest.split == "content"
    assert manifest.source == f"your own pictures in {pictures}"
    (pictures / "nut/bad.png").touch()
    assert "nut/bad.png (an empty file)" in error(mmlop("data", "fetch", "parts"))
    assert Manifest.load(shipped / "data/parts/manifest.json") == manifest  # the old one is still whole
    assert "1 left out" in mmlop("data", "fetch", "parts", "--skip-bad").out
    assert entered(shipped)[1]["parts"]["skip_bad"] is True
    assert "left out: nut/bad.png (an empty file)" in mmlop("data", "show", "parts").out
    assert "24 pictures" in mmlop("data", "fetch", "parts").out  # the choice stays


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["fetch", "mini_digit"], "Known: mini_digits"),
        (["fetch", "mini_digits", "--own-split"], "--own-split is for public data sets, and 'mini_digits' is built-in"),
        (["fetch", "eurosat", "--skip-bad"], "--skip-bad is for your own pictures, and 'eurosat' is public"),
        (["split", "eurosat"], "'eurosat' is not among `datasets` in params.yaml"),
        (["show", "eurosat"], "fetch the data set first"),
    ],
)
def test_mistakes(mmlop: Run, shipped: Path, arguments: list[str], says: str) -> None:
    before = (shipped / "params.yaml").read_bytes()
    assert says in error(mmlop("data", *arguments))
    assert (shipped / "params.yaml").read_bytes() == before


def test_dvc_reads_own_pictures_again_although_it_does_not_see_them(tmp_path: Path, pictures: Path) -> None:
    """The commands in processes of their own, with DVC, in a clone of the project."""
    project = Project(tmp_path / "clone")
    project.commit()
    assert "24 pictures" in project.mmlop("data", "add", "parts", str(pictures)).stdout
    assert "Running stage 'fetch@parts'" in project.mmlop("data", "fetch", "parts").stdout
    photo(pictures / "nut/new.png", 500)
    (pictures / "nut/bad.png").touch()
    said = project.mmlop("data", "fetch", "parts", check=False)
    assert said.returncode != 0
    assert "nut/bad.png (an empty file): correct them, or leave them out with --skip-bad." in said.stdout
    assert "Traceback" not in said.stdout
    project.mmlop("data", "fetch", "parts", "--skip-bad", "--quiet")
    manifest = Manifest.load(project.folder / "data/parts/manifest.json")
    assert len(manifest.pictures) == 25
    assert manifest.skipped == (("nut/bad.png", "an empty file"),)

    photo(pictures / "washer/0.png", 501)  # one small class, and there are no parts any more
    warning = "there are fewer than 8 pictures of washer (1), so the data set has no parts: all its pictures may be trained"
    assert f"parts: {warning}" in project.mmlop("data", "fetch", "parts").stdout
    assert f"more: {warning}" in project.mmlop("data", "add", "more", str(pictures), "--skip-bad").stdout
    assert {p.part for p in Manifest.load(project.folder / "data/parts/manifest.json").pictures} == {"train"}

    said = project.mmlop("data", "add", "most", str(tmp_path / "nowhere"), check=False)
    assert (said.returncode, said.stdout.count("\n")) == (1, 1)
    assert "nowhere does not exist" in said.stdout


def test_docs_is_a_table_of_the_public_data_sets(mmlop: Run) -> None:
    said = mmlop("data", "docs").out
    assert "\n| " in said
    assert all(name in said for name in public.SPECS)
