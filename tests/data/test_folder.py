"""A folder of one's own pictures: parts, copies, and everything that can be wrong with one."""

from __future__ import annotations

import logging
import os
import shutil
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from photos import photo, photos
from PIL import Image

from mmlop.config import Source
from mmlop.data import folder, parts
from mmlop.data.entries import Entry
from mmlop.data.folder import part_of
from mmlop.data.manifest import Contents, content_of
from mmlop.errors import MmlopError


@pytest.fixture
def hardware(tmp_path: Path) -> Path:
    return photos(tmp_path / "photos", {"nut": 30, "bolt": 30})


def contents(place: Path, skip_bad: bool = False) -> Contents:
    return folder.contents("parts", Source(folder=place, skip_bad=skip_bad))


def refused(place: Path) -> str:
    """The one sentence of everything that is wrong."""
    with pytest.raises(MmlopError) as error:
        contents(place)
    assert "\n" not in str(error.value)
    return str(error.value)


# What is found


def test_every_picture_is_listed_once_where_it_is(hardware: Path) -> None:
    found = contents(hardware)
    assert found.classes == ("bolt", "nut")
    assert found.split == "content"
    assert found.skipped == ()
    assert [p.path for p in found.pictures] == sorted(p.path for p in found.pictures)
    assert {p.path for p in found.pictures} == {f"{c}/{n}.png" for c in found.classes for n in range(30)}
    for picture in found.pictures:
        assert picture.content == content_of((hardware / picture.path).read_bytes())
        assert picture.part == part_of(picture.content)
        assert found.classes[picture.label] == picture.path.split("/")[0]


def test_nested_folders_belong_to_their_class_and_other_files_to_none(hardware: Path) -> None:
    photo(hardware / "nut/small/brass/a.PNG", 100)
    photo(hardware / "nut/.thumbs/a.png", 101)
    photo(hardware / "nut/.hidden.png", 102)
    photo(hardware / ".cache/a.png", 103)
    (hardware / "nut/notes.txt").write_text("hello")
    (hardware / "readme.md").write_text("hello")
    added = {p.path for p in contents(hardware).pictures if not p.path.split("/")[-1][0].isdigit()}
    assert added == {"nut/small/brass/a.PNG"}


def test_names_of_all_languages(tmp_path: Path) -> None:
    names = ["Schrauben größer", "螺丝", unicodedata.normalize("NFD", "naïve é")]
    found = contents(photos(tmp_path / "my photos", dict.fromkeys(names, 9)))
    assert found.classes == tuple(sorted(names))  # as they are, letter for letter
    assert len(found.pictures) == 27
    assert all((tmp_path / "my photos" / p.path).is_file() for p in found.pictures)


def test_links_are_followed_but_not_in_circles(hardware: Path, tmp_path: Path) -> None:
    (hardware / "nut/link.png").symlink_to(photo(tmp_path / "a.png", 200))
    (hardware / "nut/more").symlink_to(photo(tmp_path / "more/a.png", 201).parent)
    (hardware / "washer").symlink_to(photos(tmp_path / "elsewhere", {"washer": 10}) / "washer")
    (hardware / "nut/circle").symlink_to(hardware / "nut")
    (hardware / "nut/wide circle").symlink_to(hardware)
    (tmp_path / "more/circle").symlink_to(tmp_path / "more")
    for number, file in enumerate(sorted((hardware / "washer").iterdir())):  # other pictures than those of nut
        photo(file, 300 + number)
    found = contents(hardware)
    assert Counter(found.classes[p.label] for p in found.pictures) == {"nut": 32, "bolt": 30, "washer": 10}
    assert {p.path for p in found.pictures} >= {"nut/link.png", "nut/more/a.png", "washer/0.png"}


def test_tiny_and_tall_pictures_are_fine(hardware: Path) -> None:
    for number, size in enumerate([(1, 1), (1, 500), (3000, 2)]):
        photo(hardware / f"nut/odd{number}.png", 300 + number, size)
    assert len(contents(hardware).pictures) == 63


# Parts


def test_shares_are_50_20_30() -> None:
    found = [part_of(f"{number:016x}") for number in range(0, 16**16, 16**16 // 1000)][:1000]
    assert [found.count(part) for part in ("train", "val", "test")] == pytest.approx([500, 200, 300], abs=1)


def test_a_growing_folder_moves_nothing(hardware: Path) -> None:
    before = {p.content: p.part for p in contents(hardware).pictures}
    photo(hardware / "nut/0a.png", 1000)
    photo(hardware / "bolt/deep/0a.png", 1001)
    after = {p.content: p.part for p in contents(hardware).pictures}
    assert len(after) == len(before) + 2
    assert before.items() <= after.items()


@pytest.mark.parametrize(("few", "split"), [(7, "k-fold"), (8, "content")])
def test_too_few_pictures_for_parts_are_all_trained_on(tmp_path: Path, few: int, split: str) -> None:
    found = contents(photos(tmp_path / "photos", {"nut": 30, "bolt": few}))
    assert found.split == split
    assert ({p.part for p in found.pictures} == {"train"}) == (split == "k-fold")


def test_copies_do_not_make_enough_pictures(tmp_path: Path) -> None:
    place = photos(tmp_path / "photos", {"nut": 30, "bolt": 7})
    shutil.copy(place / "bolt/0.png", place / "bolt/copy.png")
    assert contents(place).split == "k-fold"


def test_small_classes_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """For one of them takes the test part away from all."""
    with caplog.at_level(logging.WARNING):
        found = contents(photos(tmp_path / "photos", {"nut": 30, "washer": 7, "bolt": 1, "screw": 8}))
    assert found.split == "k-fold"
    assert [record.getMessage() for record in caplog.records] == [
        "parts: there are fewer than 8 pictures of bolt (1), washer (7), so the data set has no parts: all its pictures "
        "may be trained on, none is kept for testing, and accuracy is an estimate by k-fold; give these classes 8 "
        "pictures, or leave them out"
    ]
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        contents(photos(tmp_path / "many", {"nut": 10, **{f"bolt {n:02d}": 2 for n in range(12)}}))
    assert "bolt 08 (2), bolt 09 (2) and 2 more classes, so" in caplog.text


def between(low: int, high: int) -> st.SearchStrategy[str]:
    """Content hashes, but for the last digit, whose first digit is one of these."""
    return st.integers(low * 16**14, (high + 1) * 16**14 - 1).map("{:015x}".format)


KINDS = [between(0, 15), between(0, 7), between(8, 10), between(0, 10), between(12, 15)]  # of all parts, or of some


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_every_class_can_be_trained_on_and_the_data_set_be_tested(data: st.DataObject) -> None:
    classes = [  # no picture is of two
        [f"{content}{number}" for content in data.draw(st.lists(kind, min_size=8, max_size=12, unique=True))]
        for number, kind in enumerate(data.draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=4)))
    ]
    entries = [
        Entry(f"{number}/{content}.png", str(number), content=content)
        for number, own in enumerate(classes)
        for content in own
    ]
    assigned, split = parts.assign(entries)
    assert split == "content"
    assert [entry.path for entry in assigned] == [entry.path for entry in entries]
    assert {entry.label for entry in assigned if entry.part == "train"} == {entry.label for entry in entries}
    assert "test" in {entry.part for entry in assigned}

    moved = {(entry.content, entry.part) for entry in assigned if entry.part != part_of(entry.content)}
    trained = {(min(own), "train") for own in classes if not any(part_of(content) == "train" for content in own)}
    assert trained <= moved
    if any(part_of(entry.content) == "test" for entry in entries):
        assert moved == trained
    else:
        ((content, part),) = moved - trained
        assert part == "test"
        assert content in {max(own) for own in classes if len(own) == max(map(len, classes))}


def test_a_tiny_data_set_whose_hashes_never_say_test_can_be_tested() -> None:
    """And a picture that is used for that goes back as soon as there is one whose hash says test."""
    entries = [Entry(f"nut/{digit}.png", "nut", content=f"{digit:x}" * 16) for digit in range(8)]
    entries += [Entry(f"bolt/{digit}0.png", "bolt", content=f"{digit:x}0" * 8) for digit in range(1, 10)]
    assigned, _ = parts.assign(entries)
    assert [entry.content for entry in assigned if entry.part == "test"] == ["90" * 8]
    grown, _ = parts.assign([*entries, Entry("nut/f.png", "nut", content="f" * 16)])
    assert [entry.content for entry in grown if entry.part == "test"] == ["f" * 16]
    assert [entry.part for entry in grown[:-1]] == [part_of(entry.content) for entry in entries]


def test_a_class_whose_hashes_all_say_test_has_one_training_picture() -> None:
    entries = [Entry(f"nut/{digit}.png", "nut", content=f"{digit:x}" * 16) for digit in range(12, 16)]
    entries += [Entry(f"nut/{digit}0.png", "nut", content=f"{digit:x}0" * 8) for digit in range(12, 16)]
    assigned, _ = parts.assign(entries)
    assert [entry.content for entry in assigned if entry.part == "train"] == ["c0" * 8]


# Copies


def test_a_copy_within_a_class_is_taken_once(hardware: Path) -> None:
    shutil.copy(hardware / "nut/3.png", hardware / "nut/copy.png")
    (hardware / "nut/link.png").symlink_to(hardware / "nut/4.png")
    found = contents(hardware)
    assert len(found.pictures) == 60
    assert found.skipped == ()


def test_the_same_picture_in_two_classes_is_refused_or_left_out_of_both(hardware: Path) -> None:
    shutil.copy(hardware / "nut/3.png", hardware / "bolt/a.png")
    shutil.copy(hardware / "nut/5.png", hardware / "bolt/b.png")
    said = refused(hardware)
    pairs = [("nut/3.png", "bolt/a.png"), ("bolt/a.png", "nut/3.png"), ("nut/5.png", "bolt/b.png")]
    for one, other in pairs:
        assert f"{one} (the same picture as {other} in another class)" in said
    found = contents(hardware, skip_bad=True)
    assert {path for path, _ in found.skipped} == {"nut/3.png", "bolt/a.png", "nut/5.png", "bolt/b.png"}
    assert len(found.pictures) == 58


# What is wrong


def truncated(file: Path) -> None:
    photo(file, 500, (80, 60))
    file.write_bytes(file.read_bytes()[:-40])


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty.jpg": (Path.touch, "an empty file"),
    "text.png": (lambda file: file.write_text("hello"), "not a readable picture: of no known kind"),
    "half.jpg": (truncated, "not a readable picture: image file is truncated"),
    "half.png": (truncated, "not a readable picture: "),
    "gone.png": (lambda file: file.symlink_to("nowhere.png"), "a link that leads nowhere"),
    "gone": (lambda file: file.symlink_to("nowhere"), "a link that leads nowhere"),
    "self.png": (lambda file: file.symlink_to(file), "cannot be opened: "),
    "pipe.png": (os.mkfifo, "not a file"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_picture_is_named_or_left_out(hardware: Path, caplog: pytest.LogCaptureFixture, name: str) -> None:
    make, reason = BAD[name]
    make(hardware / "nut" / name)
    said = refused(hardware)
    assert said.startswith(f"parts: 1 of the pictures and classes in {hardware} cannot be used, nut/{name} ({reason}")
    assert said.endswith(": correct them, or leave them out with --skip-bad.")
    with caplog.at_level(logging.WARNING):
        found = contents(hardware, skip_bad=True)
    assert len(found.pictures) == 60
    ((path, why),) = found.skipped
    assert path == f"nut/{name}"
    assert why.startswith(reason)
    assert len(caplog.records) == 1
    assert f"nut/{name}" in caplog.text


def test_everything_is_said_at_once_and_a_long_list_is_cut(hardware: Path) -> None:
    for name, (make, _) in BAD.items():
        make(hardware / "nut" / name)
    (hardware / "washer").mkdir()
    said = refused(hardware)
    assert f"parts: {len(BAD) + 1} of the pictures and classes" in said
    assert all(f"nut/{name} (" in said for name in BAD)
    assert "washer (a class without a usable picture)" in said
    assert "more" not in said
    for number in range(5):
        (hardware / f"nut/x{number}.png").touch()
    assert f"; and {len(BAD) + 1 + 5 - 10} more: correct them" in refused(hardware)


@pytest.mark.parametrize(("shape", "fine"), [((15, 10), True), ((16, 10), False), ((40, 10), False)])
def test_too_many_pixels(hardware: Path, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int], fine: bool) -> None:
    """Pillow warns above its limit and raises above twice its limit; neither goes unnoticed, nor is said twice."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 150)
    photo(hardware / "nut/huge.png", 600, shape)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if fine:
            assert len(contents(hardware).pictures) == 61
        else:
            assert f"nut/huge.png (not a readable picture: Image size ({shape[0] * 10} pixels) exceeds" in refused(hardware)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read(hardware: Path) -> None:
    (hardware / "nut/0.png").chmod(0)
    (hardware / "bolt").chmod(0)
    said = refused(hardware)
    (hardware / "bolt").chmod(0o700)
    assert "nut/0.png (cannot be opened: Permission denied)" in said
    assert "bolt (cannot be read: Permission denied)" in said


def test_a_name_of_two_lines_is_shown_in_one(hardware: Path) -> None:
    photo(hardware / "nut/fine\n1.png", 700)
    (hardware / "nut/bad\n1.png").touch()
    assert r"nut/bad\n1.png (an empty file)" in refused(hardware)
    assert "nut/fine\n1.png" in {p.path for p in contents(hardware, skip_bad=True).pictures}


def test_a_name_that_is_not_utf_8(hardware: Path) -> None:
    strange = os.fsencode(hardware) + b"/nut/b\xe4r.png"
    shutil.copy(os.fsencode(photo(hardware / "x.png", 700)), strange)
    os.mkdir(os.fsencode(hardware) + b"/r\xe4der")
    said = refused(hardware)
    assert r"nut/b\udce4r.png (a file name that is not UTF-8)" in said
    assert r"r\udce4der (a class name that is not UTF-8)" in said
    assert len(contents(hardware, skip_bad=True).pictures) == 60


# Classes


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("nut", "Nut"),
        ("hex nut", "hex_nut"),
        ("hex nut", "hex  nut"),
        ("é", unicodedata.normalize("NFD", "é")),
        ("Straße", "STRASSE"),
    ],
)
def test_class_names_that_say_the_same_are_refused(tmp_path: Path, one: str, other: str) -> None:
    place = photos(tmp_path / "photos", {one: 9, other: 9, "bolt": 9, "washer": 9})
    said = refused(place)
    for name, like in ((one, other), (other, one)):
        assert f"{name} (a class name like '{like}' but for case, spaces, underscores or the form of its Unicode)" in said
    found = contents(place, skip_bad=True)
    assert found.classes == ("bolt", "washer")
    assert {path for path, _ in found.skipped} == {one, other}


@pytest.mark.parametrize("name", [" ", "_", "_ _"])
def test_a_class_needs_a_name(tmp_path: Path, name: str) -> None:
    place = photos(tmp_path / "photos", {name: 9, "bolt": 9, "washer": 9})
    assert "(a class name without a letter)" in refused(place)
    assert contents(place, skip_bad=True).classes == ("bolt", "washer")


def test_a_class_without_a_usable_picture_is_left_out_too(hardware: Path) -> None:
    (hardware / "empty").mkdir()
    (hardware / "bad").mkdir()
    (hardware / "bad/a.png").touch()
    (hardware / "lost").symlink_to(hardware / "nowhere")
    said = refused(hardware)
    for name in ("bad", "empty"):
        assert f"{name} (a class without a usable picture)" in said
    assert "lost (a link that leads nowhere)" in said
    found = contents(hardware, skip_bad=True)
    assert found.classes == ("bolt", "nut")
    assert {path for path, _ in found.skipped} == {"bad/a.png", "bad", "empty", "lost"}


def test_two_classes_are_needed(tmp_path: Path) -> None:
    assert "does not exist: correct its path" in refused(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    assert "does not exist" in refused(tmp_path / "file")
    place = photos(tmp_path / "one", {"nut": 3})
    assert "holds 1 class folders: it needs one folder of pictures per class, two at least" in refused(place)
    (place / "bolt").mkdir()
    with pytest.raises(MmlopError, match="has 1 classes with usable pictures, but needs two at least"):
        contents(place, skip_bad=True)


def test_parts_are_not_taken_for_classes(tmp_path: Path) -> None:
    for part in ("train", "val"):
        photos(tmp_path / "photos" / part, {"nut": 2, "bolt": 2})
    assert "are parts rather than classes (train, val): make a table" in refused(tmp_path / "photos")
    vehicles = photos(tmp_path / "vehicles", {"train": 9, "test": 9})
    assert contents(vehicles).classes == ("test", "train")


# Places


def test_a_relative_folder_starts_at_the_project_and_a_tilde_at_home(
    hardware: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "params.yaml").touch()
    monkeypatch.chdir(hardware)
    monkeypatch.setenv("HOME", str(tmp_path))
    for place in ("photos", "~/photos", str(hardware)):
        source = Source(folder=Path(place))
        assert folder.location(source) == folder.base(source) == hardware
        assert folder.count(source) == 2
    for place in ("nowhere", "~nobody-of-that-name/photos"):
        assert folder.count(Source(folder=Path(place))) is None


def test_picture_files_are_sorted_and_a_link_in_a_circle_ends(hardware: Path) -> None:
    (hardware / "nut/round").symlink_to(hardware)
    found = folder.picture_files(hardware)
    assert found == sorted(found)
    assert len([file for file in found if "round" not in file.parts]) == 60
    with pytest.raises(MmlopError, match="cannot be read"):
        folder.picture_files(hardware / "nowhere")
