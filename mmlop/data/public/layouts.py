"""How the public data sets say which picture is of which class: in folders, lists, .mat files. And the rules that make
parts of what has none."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from mmlop.data.public.record import Item, Layout, Parts
from mmlop.errors import MmlopError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png"})
SEED = 1  # of splits of one's own


def folders(pictures: str, ignored: Collection[str] = (), renames: Mapping[str, str] | None = None) -> Layout:
    """A folder per class: labels by the sorted names of the folders, before any is renamed."""

    def read(where: Path) -> Parts:
        names = [name for name in class_folders(where / pictures) if name not in ignored]
        return {
            "all": [
                Item(path, label, (renames or {}).get(name, name))
                for label, name in enumerate(names)
                for path in pictures_in(where / pictures, name)
            ]
        }

    return read


def flowers(where: Path) -> Parts:
    """Oxford Flowers: labels 1 to 102 in the pictures' order, names by label."""
    labels = matlab(where / "imagelabels.mat", "labels")
    names = json.loads(_text(where / "cat_to_name.json"))
    return {
        "all": [
            Item(f"image_{number:05d}.jpg", int(label) - 1, names[str(label)])
            for number, label in enumerate(labels.ravel(), start=1)
        ]
    }


def pets(where: Path) -> Parts:
    """Oxford Pets: lines of picture, class from 1, species, breed; the class's name is in the picture's."""

    def items(list_: str) -> list[Item]:
        rows = (line.split() for line in text_lines(where / "annotations" / list_))
        return [Item(f"{row[0]}.jpg", int(row[1]) - 1, row[0].rpartition("_")[0].lower()) for row in rows]

    return {"trainval": items("trainval.txt"), "test": items("test.txt")}


def cars(where: Path) -> Parts:
    """Stanford Cars: classes from 1; names end in the year, which goes to the front."""
    names = [_year_first(str(name)) for name in matlab(where / "devkit/cars_meta.mat", "class_names")]

    def items(file: str, folder: str) -> list[Item]:
        rows = matlab(where / file, "annotations")
        labels = [int(label) - 1 for label in rows["class"]]
        return [Item(f"{folder}/{name}", label, names[label]) for name, label in zip(rows["fname"], labels, strict=True)]

    return {
        "trainval": items("devkit/cars_train_annos.mat", "cars_train"),
        "test": items("cars_test_annos_withlabels.mat", "cars_test"),
    }


def sun(where: Path) -> Parts:
    """SUN397: class paths such as /a/apse/indoor, whose name is `indoor apse`; the first of ten partitions."""
    labels = {line: label for label, line in enumerate(text_lines(where / "ClassName.txt"))}

    def items(list_: str) -> list[Item]:
        rows = (line.rpartition("/") for line in text_lines(where / list_))
        return [
            Item(f"{path}/{file}".lstrip("/"), labels[path], " ".join(reversed(path.split("/")[2:])))
            for path, _, file in rows
        ]

    return {"trainval": items("Training_01.txt"), "test": items("Testing_01.txt")}


def ucf(where: Path) -> Parts:
    """UCF101: lists of videos by action; the middle frames are pictures of the same names. The first of three splits."""
    lists = where / "ucfTrainTestlist"
    actions = {name: int(label) - 1 for label, name in (line.split() for line in text_lines(lists / "classInd.txt"))}

    def items(list_: str) -> list[Item]:
        found = []
        for line in text_lines(lists / list_):
            action, video = line.split()[0].split("/")
            name = "_".join(re.findall("[A-Z][^A-Z]*", action))
            found.append(Item(f"{name}/{video.removesuffix('.avi')}.jpg", actions[action], name))
        return found

    return {"trainval": items("trainlist01.txt"), "test": items("testlist01.txt")}


def aircraft(where: Path) -> Parts:
    """FGVC Aircraft: a list per part, lines of picture and variant; variants hold spaces."""
    labels = {name: label for label, name in enumerate(text_lines(where / "variants.txt"))}

    def items(part: str) -> list[Item]:
        rows = (line.split(" ", 1) for line in text_lines(where / f"images_variant_{part}.txt"))
        return [Item(f"{number}.jpg", labels[name], name) for number, name in rows]

    return {part: items(part) for part in ("train", "val", "test")}


def divide(parts: Parts) -> Parts:
    """A split of one's own, by CoOp's rules but with draws of ours: per class 50 % train, 20 % val and 30 % test of
    `all`; 80 % train and 20 % val of `trainval`. Parts that are there already stay as they are."""
    done: dict[str, list[Item]] = {part: [] for part in ("train", "val", "test")}
    done |= {part: items for part, items in parts.items() if part in done}
    generator = random.Random(SEED)
    for group in _by_class(parts.get("all", ())):
        generator.shuffle(group)
        train, val = round(len(group) * 0.5), round(len(group) * 0.2)
        done["train"] += group[:train]
        done["val"] += group[train : train + val]
        done["test"] += group[train + val :]
    for group in _by_class(parts.get("trainval", ())):
        generator.shuffle(group)
        val = round(len(group) * 0.2)
        done["val"] += group[:val]
        done["train"] += group[val:]
    return done


def class_folders(folder: Path) -> list[str]:
    """The names of the folders in a folder, sorted. Raises MmlopError if there is no such folder."""
    if not folder.is_dir():
        raise MmlopError(f"there is no folder {folder}")
    return sorted(one.name for one in folder.iterdir() if one.is_dir() and not one.name.startswith("."))


def pictures_in(folder: Path, name: str) -> list[str]:
    """The pictures of a class, sorted, as paths below ``folder``. Raises MmlopError if there are none."""
    files = (file.name for file in (folder / name).iterdir() if file.suffix.lower() in SUFFIXES)
    paths = sorted(f"{name}/{file}" for file in files if not file.startswith("."))
    if not paths:
        raise MmlopError(f"there is no picture in {folder / name}")
    return paths


def _by_class(items: Iterable[Item]) -> list[list[Item]]:
    """Groups by label, in its order, each sorted by path: the same however the items came."""
    groups: dict[int, list[Item]] = {}
    for item in sorted(items, key=lambda item: (item.label, item.path)):
        groups.setdefault(item.label, []).append(item)
    return list(groups.values())


def _year_first(name: str) -> str:
    *words, year = name.split(" ")
    return " ".join([year, *words])


def text_lines(file: Path) -> list[str]:
    """The lines with something on them, without comments."""
    lines = (line.strip() for line in _text(file).splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise MmlopError(f"there is no file {file}") from None


def matlab(file: Path, key: str) -> Any:
    """A vector of a .mat file; structs come as fields by name."""
    import numpy as np
    from scipy.io import loadmat  # type: ignore[import-untyped,unused-ignore]

    if not file.is_file():
        raise MmlopError(f"there is no file {file}")
    try:
        return np.atleast_1d(loadmat(file, squeeze_me=True)[key])
    except Exception as error:  # SciPy has several kinds for a damaged file
        raise MmlopError(f"{file} is damaged ({error})") from error
