"""A table of one's own pictures: CSV and JSON Lines, with parts or without."""

from __future__ import annotations

import itertools
import json
import logging
import shutil
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from photos import photo, photos

from mmlop.config import Params, Source
from mmlop.data import datasets, folder, table
from mmlop.data.manifest import Contents
from mmlop.data.parts import part_of
from mmlop.errors import MmlopError

WORDS = ["train", "val", "test", "Train", "VALID", "validation", "dev", "TEST", "train"]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with pictures nut/0.png .. nut/8.png and bolt/0.png .. bolt/8.png."""
    return photos(tmp_path / "pictures", {"nut": 9, "bolt": 9})


def write(file: Path, *lines: str) -> Path:
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def rows(parts: bool = False, separator: str = ",") -> list[str]:
    head = ["path", "label", "split"] if parts else ["path", "label"]
    fields = [[f"{name}/{n}.png", name, WORDS[n]] for name in ("nut", "bolt") for n in range(9)]
    return [separator.join(head), *(separator.join(row[: len(head)]) for row in fields)]


def contents(file: Path, skip_bad: bool = False) -> Contents:
    return folder.contents("parts", Source(table=file, skip_bad=skip_bad))


def refused(file: Path, skip_bad: bool = False) -> str:
    with pytest.raises(MmlopError) as error:
        contents(file, skip_bad)
    assert "\n" not in str(error.value)
    return str(error.value)


# What is read


def test_without_parts_the_content_decides(place: Path) -> None:
    found = contents(write(place / "list.csv", *rows()))
    assert found.classes == ("bolt", "nut")
    assert found.split == "content"
    assert [p.path for p in found.pictures] == [row.split(",")[0] for row in rows()[1:]]  # the order of the table
    assert Counter(p.part for p in found.pictures) == Counter(part_of(p.content) for p in found.pictures)


@pytest.mark.parametrize("separator", [",", ";", "\t", ", "])
@pytest.mark.parametrize("key", ["split", "part", "Part "])
def test_parts_are_taken_as_given(place: Path, separator: str, key: str) -> None:
    head, *lines = rows(parts=True, separator=separator)
    found = contents(write(place / "list.CSV", head.replace("split", key), *lines))
    assert found.split == "given"
    expected = ["train", "val", "test", "train", "val", "val", "val", "test", "train"]
    assert [p.part for p in found.pictures] == expected * 2


def test_few_pictures_with_given_parts_keep_them(place: Path) -> None:
    found = contents(write(place / "list.csv", *rows(parts=True)[:5], *rows(parts=True)[-3:]))
    assert found.split == "given"
    assert len({p.part for p in found.pictures}) == 3


@pytest.mark.parametrize(
    ("given", "missing"), [({"train"}, "test"), ({"train", "val"}, "test"), ({"test"}, "train"), ({"val"}, "train or test")]
)
def test_given_parts_have_something_to_train_and_to_test_on(place: Path, given: set[str], missing: str) -> None:
    parts = itertools.cycle(sorted(given))
    file = write(place / "list.csv", "path,label,split", *(f"{row},{next(parts)}" for row in rows()[1:]))
    alone = "; a data set that is only tested on belongs under test_sets in params.yaml" if "train" in missing else ""
    assert refused(file) == (
        f"parts: {file} gives every picture a part, but none the part {missing}: give some that part, or leave the column "
        f"away, and parts are made by content{alone}."
    )


def test_a_data_set_that_is_only_tested_on_needs_no_training_pictures(place: Path) -> None:
    def found(part: str) -> Contents:
        write(place / "list.csv", "path,label,split", *(f"{row},{part}" for row in rows()[1:]))
        params = Params.model_validate(
            {
                "datasets": ["mini_digits"],
                "test_sets": ["parts"],
                "sources": {"parts": {"table": place / "list.csv"}},
                "backbone": "mini",
                "profiles": {"mini": {"architecture": "mini"}},
            }
        )
        return datasets.get("parts", params).fill(place)

    assert {picture.part for picture in found("test").pictures} == {"test"}
    with pytest.raises(MmlopError, match="none the part test"):
        found("train")


def test_json_lines(place: Path) -> None:
    lines = [{"path": f"{c}/{n}.png", "label": c, "part": WORDS[n]} for c in ("nut", "bolt") for n in range(9)]
    as_json = contents(write(place / "list.jsonl", *map(json.dumps, lines), ""))
    assert as_json == contents(write(place / "list.csv", *rows(parts=True)))
    lines = [
        {"path": f"{c}/{n}.png", "label": label, "split": None} for label, c in ((7, "nut"), (8, "bolt")) for n in range(9)
    ]
    found = contents(write(place / "numbers.jsonl", *map(json.dumps, lines)))
    assert (found.classes, found.split) == (("7", "8"), "content")


def test_byte_order_mark_blank_lines_windows_ends_and_quotes(place: Path) -> None:
    photo(place / "a, b.png", 100)
    lines = [*rows()[:12], "", *rows()[12:], '"a, b.png","nut"', ""]
    (place / "list.csv").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    found = contents(place / "list.csv")
    assert len(found.pictures) == 19
    assert found.pictures[-1].path == "a, b.png"


def test_paths_of_all_kinds(place: Path, tmp_path: Path) -> None:
    (place / "lists").mkdir()
    outside, inside = photo(tmp_path / "größer/螺丝 1.png", 100), photo(place / "lists/in.png", 101)
    lines = [row.replace("nut/", "../nut/").replace("bolt/", "./../bolt/") for row in rows()[1:]]
    file = write(place / "lists/list.csv", "label,path", *(",".join(line.split(",")[::-1]) for line in lines))
    with file.open("a", encoding="utf-8") as more:
        more.write(f"nut,{outside}\nnut,{inside}\n")
    source = Source(table=file)
    found = contents(file)
    assert folder.base(source) == place / "lists"
    assert [p.path for p in found.pictures[-2:]] == [str(outside), "in.png"]
    assert found.pictures[0].path == "../nut/0.png"
    assert found.pictures[9].path == "../bolt/0.png"
    assert all((folder.base(source) / p.path).is_file() for p in found.pictures)


def test_count_is_of_the_labels(place: Path) -> None:
    assert folder.count(Source(table=write(place / "list.csv", *rows()))) == 2
    assert folder.count(Source(table=place / "nowhere.csv")) is None
    assert folder.count(Source(table=write(place / "bad.csv", "hello"))) is None


text = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1).map(str.strip).filter(bool)


@settings(max_examples=60, deadline=None)
@given(labels=st.lists(text, min_size=1, max_size=5))
def test_any_label_is_read_back(tmp_path_factory: pytest.TempPathFactory, labels: list[str]) -> None:
    here = tmp_path_factory.mktemp("table")
    paths = [f"{number}.png" for number in range(len(labels))]
    lines = [json.dumps({"path": path, "label": label}) for path, label in zip(paths, labels, strict=True)]
    quoted = [f'{path},"{label.replace(chr(34), chr(34) * 2)}"' for path, label in zip(paths, labels, strict=True)]
    for file in (write(here / "a.jsonl", *lines), write(here / "a.csv", "path,label", *quoted)):
        found = table.read(file)
        assert [(entry.path, entry.label) for entry in found.entries] == list(zip(paths, labels, strict=True))
        assert found.classes == sorted(set(labels))


# Copies


def test_a_picture_in_two_parts_stays_in_the_one_for_testing(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    copies = [("nut/0.png", "a.png", "test"), ("nut/1.png", "b.png", "train"), ("nut/2.png", "c.png", "train")]
    for known, copy, _ in copies:  # of train, val, test
        shutil.copy(place / known, place / copy)
    shutil.copy(place / "nut/3.png", place / "d.png")  # of train, and in train again
    lines = [*rows(parts=True), *(f"{copy},nut,{part}" for _, copy, part in copies), "d.png,nut,train"]
    with caplog.at_level(logging.WARNING):
        found = contents(write(place / "list.csv", *lines))
    assert found.skipped == (
        ("nut/0.png", "the same picture as a.png (test)"),
        ("b.png", "the same picture as nut/1.png (val)"),
        ("c.png", "the same picture as nut/2.png (test)"),
    )
    assert len(found.pictures) == 18
    assert len({p.content for p in found.pictures}) == 18
    assert len(caplog.records) == 1
    assert "parts: 3 pictures left out as they are in another part too" in caplog.text


# Rows that can be left out


def test_bad_rows_are_named_with_their_lines_or_left_out(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    (place / "empty.png").touch()
    shutil.copy(place / "nut/5.png", place / "copy.png")
    bad = ["nowhere.png,nut", "empty.png,nut", "bolt/0.png, ", ",nut", "./nut/0.png,nut", "nut/1.png,bolt", "copy.png,bolt"]
    file = write(place / "list.csv", *rows(), *bad, "nut,nut")
    expected = {
        ("bolt/0.png", "no label, line 22"),
        ("list.csv", "no path, line 23"),
        ("nut/0.png", "line 24 repeats line 2"),
        ("nut/1.png", "lines 3, 25 do not agree on its label or part"),
        ("nowhere.png", "missing, line 20"),
        ("empty.png", "an empty file, line 21"),
        ("nut", "not a file, line 27"),
        ("copy.png", "the same picture as nut/5.png in another class, line 26"),
        ("nut/5.png", "the same picture as copy.png in another class, line 7"),
    }
    said = refused(file)
    assert said.startswith(f"parts: 9 of the pictures and classes in {file} cannot be used, ")
    assert all(f"{path} ({reason})" in said for path, reason in expected)
    with caplog.at_level(logging.WARNING):
        found = contents(file, skip_bad=True)
    assert set(found.skipped) == expected
    assert len(found.pictures) == 16
    assert ["9 left out as they cannot be used" in one.getMessage() for one in caplog.records] == [True, False]
    assert "fewer than 8 pictures of nut (7)" in caplog.text  # of nine, two were bad


def test_repeated_rows_of_two_parts_are_left_out_altogether(place: Path) -> None:
    file = write(place / "list.csv", *rows(parts=True), "nut/0.png,nut,test")
    assert "nut/0.png (lines 2, 20 do not agree on its label or part)" in refused(file)
    assert "nut/0.png" not in {p.path for p in contents(file, skip_bad=True).pictures}


def test_labels_that_say_the_same(place: Path) -> None:
    photo(place / "a.png", 100)
    file = write(place / "list.csv", *rows(), "a.png,Nut")
    said = refused(file)
    assert "Nut (a class name like 'nut'" in said
    assert "nut (a class name like 'Nut'" in said
    assert "needs two at least" in refused(file, skip_bad=True)


def test_a_long_list_is_cut(place: Path) -> None:
    said = refused(write(place / "list.csv", *rows(), *(f"nowhere{n}.png,nut" for n in range(14))))
    assert "nowhere9.png (missing, line 29); and 4 more: correct them" in said


# Tables that are none, whether bad rows are skipped or not


@pytest.mark.parametrize("skip_bad", [False, True])
@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (["path,label"], "has no rows"),
        ([], "has no 'path' in its first line"),
        (["path;name", "a.png;nut"], "has no 'label' in its first line, which should be `path,label` or"),
        (["a.png,nut"], "has no 'path' in its first line"),
        (["path,label,spilt", "a.png,nut,test"], "has 'spilt', which is none of split, path, label, part"),
        (["path,label,split,part", "a.png,nut,test,test"], "has something twice"),
        (["path,label,label", "a.png,nut,nut"], "has something twice"),
        ([*rows(), "a.png", "b.png,nut,test"], "line 20 has 1 fields instead of 2; line 21 has 3 fields instead of 2"),
        ([*rows(), '"a.png,nut', "b.png,nut"], "line 21 is not CSV (unexpected end of data)"),
        ([*rows(parts=True), "a.png,nut,"], "line 20 has no part although line 2 has one (every row has one, or none has)"),
        (
            [*rows(parts=True), "a.png,nut,tset", "b.png,nut,Holdout"],
            "line 20 has the part 'tset', which is none of test, train, val, valid, validation, dev; line 21 has the",
        ),
    ],
)
def test_what_is_no_table_is_refused(place: Path, lines: list[str], says: str, skip_bad: bool) -> None:
    said = refused(write(place / "list.csv", *lines), skip_bad)
    assert str(place / "list.csv") in said
    assert says in said


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "line 2 is not JSON (Expecting property name enclosed in double quotes): correct the table."),
        ("[" * 100_000, "line 2 is not JSON"),
        ("[1]", "line 2 is no JSON object"),
        ('{"path": "a.png"}', "line 2 has no 'label'"),
        ('{"path": "a.png", "label": "nut", "class": 1}', "line 2 has 'class', which is none of"),
        ('{"path": "a.png", "label": null}', "line 2 has a 'label' that is no text"),
        ('{"path": ["a.png"], "label": "nut"}', "line 2 has a 'path' that is no text"),
        ('{"path": "a.png", "label": true}', "line 2 has a 'label' that is no text"),
        ('{"path": "a.png", "label": "nut", "split": 1}', "line 2 has the part '1', which is none of train"),
    ],
)
def test_what_is_no_json_row_is_refused(place: Path, line: str, says: str) -> None:
    assert says in refused(write(place / "list.jsonl", '{"path": "nut/0.png", "label": "nut"}', line))


def test_names_that_no_file_can_have(place: Path) -> None:
    lines = [json.dumps({"path": path, "label": "nut"}) for path in ("a\0.png", "\ud800.png")]
    said = refused(write(place / "list.jsonl", *lines))
    assert "(cannot be opened: embedded null byte, line 1)" in said
    assert r"\ud800.png (a file name that is not UTF-8, line 2)" in said


def test_ten_wrong_lines_are_named(place: Path) -> None:
    said = refused(write(place / "list.csv", *rows(), *["a.png"] * 14))
    assert "line 29 has 1 fields instead of 2; and 4 more: correct the table." in said


def test_other_files_are_refused(place: Path) -> None:
    assert "does not exist: correct its path" in refused(place / "nowhere.csv")
    (place / "list.csv").write_bytes("path,label\nnut/0.png,größer\n".encode("latin-1"))
    assert "list.csv is not UTF-8 text, as line 2 shows: save it as UTF-8." in refused(place / "list.csv")
    (place / "list.csv").write_text("\n".join(rows()), encoding="utf-16")
    assert "list.csv is not UTF-8 text, as line 1 shows" in refused(place / "list.csv")
    (place / "list.csv").write_bytes(b"")
    assert "list.csv has no rows" in refused(place / "list.csv")
    (place / "list.xlsx").touch()
    assert "list.xlsx is no table: it must be a .csv or a .jsonl file." in refused(place / "list.xlsx")
    (place / "folder.csv").mkdir()
    assert "folder.csv cannot be read: Is a directory." in refused(place / "folder.csv")
