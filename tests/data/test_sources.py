"""Entries added to params.yaml: where they belong, and nothing else touched."""

from __future__ import annotations

import difflib
import shutil
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mmlop import config
from mmlop.config import Source
from mmlop.data import sources
from mmlop.errors import MmlopError

SHIPPED = Path(__file__).parents[2] / "params.yaml"
PROFILES = "profiles: {mini: {architecture: mini}}\n"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the shipped params.yaml in a project that is the current folder."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(SHIPPED, tmp_path)
    return tmp_path / "params.yaml"


def changes(before: str, after: str) -> tuple[list[str], list[str]]:
    """The lines that went and that came."""
    lines = list(difflib.ndiff(before.splitlines(), after.splitlines()))
    return [one[2:] for one in lines if one.startswith("- ")], [one[2:] for one in lines if one.startswith("+ ")]


def described(name: str = "parts", path: str = "photos", template: str | None = None, **kind: str | bool) -> Source:
    licence, skip_bad = kind.get("licence"), bool(kind.get("skip_bad"))
    return sources.described(name, Path(path), template, str(licence) if licence else None, skip_bad, config.load())


def test_the_shipped_file_gains_the_entry_and_nothing_else(file: Path) -> None:
    before = file.read_text()
    sources.add(file, "parts", described(path="/photos/Teile größer", template="a photo of a {}, a machine part."))
    gone, came = changes(before, file.read_text())
    assert [line.split("#")[0].split() for line in gone] == [["sources:", "{}"]]  # an empty mapping becomes a block
    assert came == [
        "  - parts",
        gone[0].replace("{}", "  "),
        "  parts:",
        "    folder: /photos/Teile größer",
        "    template: a photo of a {}, a machine part.",
    ]
    params = config.load()
    assert params.datasets[-1] == "parts"
    assert params.sources["parts"] == Source(
        folder=Path("/photos/Teile größer"), template="a photo of a {}, a machine part."
    )


def test_a_second_entry_follows_the_first_with_all_it_was_given(file: Path) -> None:
    sources.add(file, "parts", described())
    before = file.read_text()
    kind = {"template": "{}: #1", "licence": "CC BY 4.0", "skip_bad": True}
    sources.add(file, "more-parts_2", described("more-parts_2", "lists/all.csv", **kind))
    gone, came = changes(before, file.read_text())
    assert gone == []
    assert came == [
        "  - more-parts_2",
        "  more-parts_2:",
        "    table: lists/all.csv",
        "    template: '{}: #1'",
        "    licence: CC BY 4.0",
        "    skip_bad: true",
    ]
    assert list(config.load().sources) == ["parts", "more-parts_2"]
    assert config.load().sources["more-parts_2"].template == "{}: #1"


def test_flags_are_set_in_place(file: Path) -> None:
    sources.add(file, "parts", described())
    before = file.read_text()
    sources.skip_bad(file, "parts")
    assert changes(before, file.read_text()) == ([], ["    skip_bad: true"])
    before = file.read_text()
    sources.skip_bad(file, "parts")
    assert file.read_text() == before
    sources.allow_own_split(file, "eurosat")
    gone, came = changes(before, file.read_text())
    assert [line.replace("[]", "[eurosat]") for line in gone] == came
    sources.allow_own_split(file, "food101")
    sources.allow_own_split(file, "eurosat")
    assert config.load().data.own_split == ("eurosat", "food101")
    assert len(file.read_text().splitlines()) == len(before.splitlines())


def test_a_path_inside_the_project_is_relative_to_it(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (file.parent / "deep").mkdir()
    monkeypatch.chdir(file.parent / "deep")
    monkeypatch.setenv("HOME", "/home/someone")
    for given_path, stored in (
        ("photos", "deep/photos"),
        ("../photos", "photos"),
        (str(file.parent / "photos"), "photos"),
        ("/elsewhere/photos", "/elsewhere/photos"),
        ("~/photos", "/home/someone/photos"),
    ):
        assert described(path=given_path).folder == Path(stored)


# Files laid out otherwise

LAYOUTS = {
    "flow": "datasets: [mini_digits]\nbackbone: mini\nsources: {old: {folder: x}}\ndata: {seed: 3}\n" + PROFILES,
    "flow of several lines": "datasets: [\n  mini_digits,  # one\n]\nbackbone: mini\nsources: {\n  old: {folder: x},\n}\n"
    + PROFILES,
    "no sources, no data": "datasets:\n- mini_digits\nbackbone: mini\n" + PROFILES.rstrip(),
    "comments and blank lines": (
        "datasets:\n- mini_digits # a\n# - mini_pairs\n\n\nbackbone: mini\n"
        "sources:\n   old:\n      folder: x # b\n   # c\n\n"
        "data:\n   own_split:\n   - dtd\n\n" + PROFILES
    ),
    "all in braces": "{datasets: [mini_digits], backbone: mini, sources: {}, " + PROFILES.rstrip() + "}\n",
    "text of several lines": (
        "datasets: [mini_digits]\nbackbone: mini\n" + PROFILES + "sources:\n  old:\n    folder: x\n    template: |-\n"
        "      {} on\n      two lines\n"
    ),
    "empty at the end": "datasets: [mini_digits]\nbackbone: mini\n" + PROFILES + "sources: {}",
    "quoted": "\"datasets\": ['mini_digits']\n'backbone': \"mini\"\n'sources': {}\n" + PROFILES,
    "a byte order mark": "\ufeffdatasets: [mini_digits]\nbackbone: mini\nsources: {}\n" + PROFILES,
}


@pytest.mark.parametrize("ends", ["\n", "\r\n"], ids=["unix", "windows"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_other_layouts(file: Path, layout: str, ends: str) -> None:
    text = LAYOUTS[layout].replace("\n", ends)
    file.write_bytes(text.encode())
    before = yaml.safe_load(LAYOUTS[layout])
    sources.add(file, "parts", Source(folder=Path("photos"), skip_bad=False))
    sources.skip_bad(file, "parts")
    sources.allow_own_split(file, "eurosat")
    after = yaml.safe_load(file.read_text())
    assert after.pop("datasets") == [*before.pop("datasets"), "parts"]
    entry = {"folder": "photos", "template": "a photo of a {}.", "skip_bad": True}
    assert after.pop("sources") == before.pop("sources", {}) | {"parts": entry}
    data = before.pop("data", {})
    assert after.pop("data") == data | {"own_split": [*data.get("own_split", []), "eurosat"]}
    assert after == before
    assert [c for c in "abc" if f"# {c}" in text] == [c for c in "abc" if f"# {c}" in file.read_text()]
    assert (b"\r\n" in file.read_bytes()) == (ends == "\r\n" and b"\n" in file.read_bytes())
    assert b"\n" not in file.read_bytes().replace(b"\r\n", b"") or ends == "\n"


templates = st.tuples(*[st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20)] * 2).map("{}".join)


@settings(max_examples=100, deadline=None)
@example(template="{}", licence="\x85")
@example(template="größer {}", licence="\u2028 a")
@given(template=templates.filter(lambda text: text.count("{}") == 1), licence=st.text(min_size=1, max_size=10))
def test_any_words_are_read_back(tmp_path_factory: pytest.TempPathFactory, template: str, licence: str) -> None:
    file = tmp_path_factory.mktemp("words") / "params.yaml"
    shutil.copy(SHIPPED, file)
    source = Source(folder=Path("/photos"), template=template, licence=licence)
    sources.add(file, "parts", source)
    assert config.load(file).sources["parts"] == source


# What cannot be added


@pytest.mark.parametrize("name", ["Parts", "-parts", "my parts", "größe", "", "a/b", "parts\n"])
def test_names_follow_a_rule(file: Path, name: str) -> None:
    with pytest.raises(MmlopError, match="cannot be a data set's name: small letters, digits, - and _ only"):
        described(name)


def test_names_are_taken_once(file: Path) -> None:
    for name in ("mini_digits", "imagenet"):
        with pytest.raises(MmlopError, match=f"There is a data set '{name}' already, built in or listed"):
            described(name)
    sources.add(file, "parts", described())
    with pytest.raises(MmlopError, match=r"'parts' already, under sources in params\.yaml: choose another name"):
        described()


@pytest.mark.parametrize("template", ["a photo", "{} and {}"])
def test_a_template_needs_one_gap(file: Path, template: str) -> None:
    with pytest.raises(MmlopError, match=r"will not do: it needs exactly one \{\} for the class name"):
        described(template=template)


def test_a_file_of_another_kind(file: Path) -> None:
    (file.parent / "list.xlsx").touch()
    with pytest.raises(MmlopError, match=r"list\.xlsx is neither a folder nor a table"):
        described(path="list.xlsx")


def test_a_file_that_cannot_be_edited_is_left_alone(file: Path) -> None:
    """An alias: what is added to one of its places would be added to all."""
    text = "datasets: &all [mini_digits]\ntest_sets: *all\nbackbone: mini\n" + PROFILES
    file.write_text(text)
    with pytest.raises(MmlopError, match=r"params\.yaml is laid out in a way that cannot be edited for you"):
        sources.add(file, "parts", Source(folder=Path("photos")))
    assert file.read_text() == text
    assert [one.name for one in file.parent.iterdir()] == ["params.yaml"]
