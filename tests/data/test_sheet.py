"""A contact sheet: as large as what it shows, the same bytes for the same data set, and drawn whatever is in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmlop.data.manifest import Fetched, Manifest, Picture, content_of
from mmlop.data.sheet import CROSSED, GAP, MARGIN, MARKS, NAME, THUMB, TITLE, sheet
from mmlop.errors import MmlopError

RED, BLUE = (200, 20, 20), (20, 20, 200)


def data_set(folder: Path, classes: list[str], counts: dict[str, int], name: str = "zoo") -> Fetched:
    """Plain pictures, red in training and blue elsewhere, each slightly different: so many of each class in each part."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = []
    for label in range(len(classes)):
        for part, count in counts.items():
            for index in range(count):
                path = f"{part}-{label}-{index}.png"
                image = Image.new("RGB", (20, 30), RED if part == "train" else BLUE)
                image.putpixel((0, 0), (label % 256, label // 256, index))
                image.save(folder / path)
                pictures.append(Picture(path, label, part, content_of((folder / path).read_bytes())))
    manifest = Manifest(
        name, tuple(classes), "a photo of a {}.", "CC0", "drawn by hand", split="given", pictures=tuple(pictures)
    )
    return Fetched(manifest, folder)


def drawn(file: Path) -> np.ndarray:
    with Image.open(file) as image:
        assert image.format == "PNG"
        return np.asarray(image)


def cell(page: np.ndarray, row: int, column: int) -> np.ndarray:
    top, left = TITLE + row * (THUMB + GAP), MARGIN + NAME + column * (THUMB + GAP)
    return page[top : top + THUMB, left : left + THUMB]


def middle(page: np.ndarray, row: int, column: int) -> tuple[int, ...]:
    return tuple(cell(page, row, column)[THUMB // 2, THUMB // 2].tolist())


def test_a_row_for_each_class_a_column_for_each_picture(tmp_path: Path) -> None:
    zoo = data_set(tmp_path / "zoo", ["ape", "bear", "cow"], {"train": 6, "test": 2})
    assert sheet(zoo, tmp_path / "sheet.png") == tmp_path / "sheet.png"
    page = drawn(tmp_path / "sheet.png")
    assert page.shape == (TITLE + 3 * (THUMB + GAP) + MARGIN, 2 * MARGIN + NAME + 4 * (THUMB + GAP), 3)
    assert [middle(page, row, column) for row in range(3) for column in range(4)] == [RED] * 12
    assert drawn(sheet(zoo, tmp_path / "wide.png", per_class=5)).shape[1] == page.shape[1] + THUMB + GAP
    assert sorted(file.name for file in tmp_path.iterdir()) == ["sheet.png", "wide.png", "zoo"]


def test_the_same_data_set_gives_the_same_bytes_in_whatever_order_it_is_listed(tmp_path: Path) -> None:
    zoo = data_set(tmp_path / "zoo", ["ape", "bear"], {"train": 9})
    turned = Manifest(**vars(zoo.manifest) | {"pictures": zoo.manifest.pictures[::-1]})
    first = sheet(zoo, tmp_path / "1.png").read_bytes()
    assert sheet(zoo, tmp_path / "2.png").read_bytes() == first
    assert sheet(Fetched(turned, zoo.folder), tmp_path / "3.png").read_bytes() == first
    other = data_set(tmp_path / "zoo", ["ape", "bee"], {"train": 9})
    assert sheet(other, tmp_path / "4.png").read_bytes() != first


def test_base_and_novel_are_marked_where_there_is_something_to_train_on(tmp_path: Path) -> None:
    def mark(page: np.ndarray, row: int) -> tuple[int, ...]:
        return tuple(page[TITLE + row * (THUMB + GAP) + 1, MARGIN + 1].tolist())

    names = ["ape", "bear", "cow", "dog", "eel"]
    page = drawn(sheet(data_set(tmp_path / "zoo", names, {"train": 1}), tmp_path / "sheet.png"))
    assert [mark(page, row) for row in range(5)] == [MARKS["base"]] * 3 + [MARKS["novel"]] * 2
    page = drawn(sheet(data_set(tmp_path / "variant", names, {"test": 1}), tmp_path / "sheet.png"))
    assert {mark(page, row) for row in range(5)} == {(255, 255, 255)}
    assert middle(page, 0, 0) == BLUE


def test_one_picture_is_enough(tmp_path: Path) -> None:
    page = drawn(sheet(data_set(tmp_path, ["ape"], {"train": 1}), tmp_path / "sheet.png"))
    assert middle(page, 0, 0) == RED
    assert middle(page, 0, 1) == (255, 255, 255)


def test_of_many_classes_some_are_shown_evenly_spread(tmp_path: Path) -> None:
    zoo = data_set(tmp_path / "zoo", [f"class {label}" for label in range(500)], {"train": 1})
    page = drawn(sheet(zoo, tmp_path / "sheet.png"))
    assert page.shape[0] == TITLE + 25 * (THUMB + GAP) + MARGIN
    marks = [tuple(page[TITLE + row * (THUMB + GAP), MARGIN].tolist()) for row in range(25)]
    assert (marks.count(MARKS["base"]), marks.count(MARKS["novel"])) == (13, 12)
    every = drawn(sheet(zoo, tmp_path / "every.png", per_class=1, classes=1000))
    assert every.shape[0] == TITLE + 500 * (THUMB + GAP) + MARGIN
    assert middle(every, 499, 0) == RED


@pytest.mark.parametrize(
    "name",
    [
        "zèbre à l'œil ouvert",
        "Жираф",
        "ζέβρα",
        "חתול",
        "猫",
        "\U00016a40",
        "cat \U0001f431",
        "line\nbreak\tand\x00more",
        "undecodable \udce9",
        "e\u0301 combined",
        "very long " * 40,
        "",
        " ",
    ],
)
def test_any_name_is_drawn_inside_its_column(tmp_path: Path, name: str) -> None:
    zoo = data_set(tmp_path / "zoo", ["plain", name], {"test": 1}, name=f"zoo {name}")
    page = drawn(sheet(zoo, tmp_path / "sheet.png"))
    top = TITLE + THUMB + GAP
    text = page[top : top + THUMB // 2, : MARGIN + NAME] != 255
    assert text.any() == bool(name.strip())
    assert not text[:, -4:].any()
    assert (page[:, -MARGIN:] == 255).all()


def test_letters_that_a_font_lacks_are_spelled_out_rather_than_drawn_as_one_and_the_same_box(tmp_path: Path) -> None:
    def of(name: str) -> np.ndarray:
        zoo = data_set(tmp_path / "zoo", ["plain", name], {"test": 1})
        return drawn(sheet(zoo, tmp_path / "sheet.png"))[TITLE + THUMB :, : MARGIN + NAME]

    assert not np.array_equal(of("\U00016a40"), of("\U00016a41"))
    assert np.array_equal(of("\U00016a40"), of("\\U00016a40"))


@pytest.mark.parametrize("trouble", ["missing", "damaged", "changed", "folder"])
def test_a_picture_that_cannot_be_shown_is_a_crossed_box(tmp_path: Path, trouble: str) -> None:
    zoo = data_set(tmp_path / "zoo", ["ape", "bear"], {"train": 2})
    file = zoo.folder / "train-0-1.png"
    data = file.read_bytes()
    file.unlink()
    if trouble == "damaged":
        file.write_bytes(data[:40])
    elif trouble == "changed":
        Image.new("RGB", (20, 30), BLUE).save(file)
    elif trouble == "folder":
        file.mkdir()
    page = drawn(sheet(zoo, tmp_path / "sheet.png"))
    corners = [tuple(cell(page, row, column)[0, 0].tolist()) for row in range(2) for column in range(2)]
    assert corners.count(CROSSED) == 1
    assert BLUE not in {middle(page, row, column) for row in range(2) for column in range(2)}
    assert middle(page, 1, 0) == middle(page, 1, 1) == RED


@pytest.mark.parametrize("size", [(1, 1), (3000, 1), (1, 3000), (640, 480)])
def test_pictures_of_any_shape_fill_their_cell(tmp_path: Path, size: tuple[int, int]) -> None:
    Image.new("RGB", size, BLUE).save(tmp_path / "a.png")
    picture = Picture("a.png", 0, "test", content_of((tmp_path / "a.png").read_bytes()))
    manifest = Manifest("zoo", ("ape",), "a {}.", "CC0", "drawn by hand", split="given", pictures=(picture,))
    page = drawn(sheet(Fetched(manifest, tmp_path), tmp_path / "sheet.png"))
    assert (cell(page, 0, 0) == BLUE).all()


def test_nothing_asked_for_is_refused_and_nothing_written(tmp_path: Path) -> None:
    zoo = data_set(tmp_path / "zoo", ["ape", "bear"], {"train": 1})
    for per_class, classes in ((0, 25), (4, 0), (-1, 3)):
        with pytest.raises(MmlopError, match="ask for 1 at least"):
            sheet(zoo, tmp_path / "sheet.png", per_class, classes)
    assert not (tmp_path / "sheet.png").exists()


def test_a_sheet_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    zoo = data_set(tmp_path / "zoo", ["ape", "bear"], {"train": 1})
    (tmp_path / "file").write_text("not a folder")
    (tmp_path / "folder").mkdir()
    for target in (tmp_path / "file" / "sheet.png", tmp_path / "folder", tmp_path / ("x" * 250 + ".png")):
        with pytest.raises(MmlopError, match=r"contact sheet cannot be written to .* \(.+\): choose another --sheet\.$"):
            sheet(zoo, target)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file", "folder", "zoo"]
    assert not any((tmp_path / "folder").iterdir())
