"""The fifteen public data sets in small: archives of their true layouts, with a few classes and tiny pictures.

    spec = tiny("caltech101", server)     # `server`: of the fixture `file_server`
    public.contents(spec, home, own_split=False)

`tiny` gives the data set's own record with the addresses, checksums and counts of the small archives, which ``server``
then serves as <name>/<file> (copies of the whole data set, as CoOp lays it out, as <name>/mirror/<file>). Every class has
at least three training, one validation and two test pictures, in so far as the set has such parts.

`by_hand` gives the archives of ImageNet, which has no address, `lay` writes a data set as CoOp lays it out, and `made`
says what is in it. The classes of ImageNet and of its variants go together, as those of the true ones do.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import random
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from file_server import FileServer
from PIL import Image
from scipy.io import savemat  # type: ignore[import-untyped,unused-ignore]

from mmlop.data import public
from mmlop.data.download import Remote
from mmlop.data.public.record import Public

WNIDS = (  # the first of ImageNet's
    *("n01440764", "n01443537", "n01484850", "n01491361", "n01494475", "n01496331"),
    *("n01498041", "n01514668", "n01514859", "n01518878", "n01530575"),
)
FISH_AND_FOWL = (
    *("tench", "goldfish", "great white shark", "tiger shark", "hammerhead shark", "electric ray"),
    *("stingray", "rooster", "hen", "ostrich", "brambling"),
)
MANY, FEW, LISTED = (
    ("train",) * 5 + ("val",) * 2 + ("test",) * 3,
    ("train",) * 5 + ("val", "test", "test"),
    "train val test",
)


@dataclass(frozen=True)
class Made:
    """A small data set as CoOp lays it out."""

    classes: tuple[str, ...]
    pictures: dict[str, tuple[int, str]]  # path below the folder of pictures: label and part
    extra: dict[str, bytes] = field(default_factory=dict)  # other files, below the data set's folder


def tiny(name: str, server: FileServer) -> Public:
    spec, what = public.SPECS[name], made(name)
    counts = [part for _, part in what.pictures.values()]
    return replace(
        spec,
        classes=len(what.classes),
        counts=(counts.count("train"), counts.count("val"), counts.count("test")),
        gigabytes=0.001,
        sources=tuple(tuple(_served(name, remote, server) for remote in group) for group in spec.sources),
        split=spec.split and _served(name, spec.split, server),
        annotations=tuple(replace(one, remote=_served(name, one.remote, server)) for one in spec.annotations),
    )


def by_hand(name: str) -> dict[str, bytes]:
    """The archives of a data set by file name."""
    groups = [group for group in public.SPECS[name].sources if not _is_mirror(group[0])]
    remotes = [remote for group in groups for remote in group] + [one.remote for one in public.SPECS[name].annotations]
    return {remote.name: _data(name, remote) for remote in remotes}


def lay(name: str, home: Path) -> None:
    """Write the data set below ``home`` as CoOp lays it out, with its split file."""
    for path, data in tree(name).items():
        file = home / public.SPECS[name].folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)


@functools.cache
def made(name: str) -> Made:
    return _MAKERS[name]()


@functools.cache
def tree(name: str) -> dict[str, bytes]:
    """The files below the data set's folder."""
    spec, what = public.SPECS[name], made(name)
    files = {(Path(spec.pictures) / path).as_posix(): jpeg(path, label) for path, (label, _) in what.pictures.items()}
    split = {spec.split.name: split_file(name)} if spec.split else {}
    return files | what.extra | split


@functools.cache
def split_file(name: str) -> bytes:
    """A split file: rows of path, label and class; classes not in the order of labels, as in that of the flowers."""
    what = made(name)
    rows: dict[str, list[list[Any]]] = {"train": [], "val": [], "test": []}
    paths = list(what.pictures)
    random.Random(name).shuffle(paths)
    for path in sorted(paths, key=lambda path: -what.pictures[path][0] % 3):
        label, part = what.pictures[path]
        rows[part].append([path, label, what.classes[label]])
    return json.dumps(rows).encode()


def jpeg(path: str, label: int) -> bytes:
    """A picture of 24x20 of the colour of its class, and like no other."""
    noise = np.random.default_rng(list(path.encode())).integers(0, 60, (20, 24, 3), dtype=np.uint8)
    colour = np.random.default_rng(label).integers(0, 195, 3, dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise + colour).save(buffer, format="JPEG")
    return buffer.getvalue()


def packed(name: str, files: Mapping[str, bytes]) -> bytes:
    """An archive of the kind that its name says."""
    buffer = io.BytesIO()
    if name.endswith(".zip"):
        with zipfile.ZipFile(buffer, "w") as archive:
            for path, data in files.items():
                archive.writestr(zipfile.ZipInfo(path), data)
    else:
        with tarfile.open(fileobj=buffer, mode="w" if name.endswith(".tar") else "w:gz") as tar:
            for path, data in files.items():
                member = tarfile.TarInfo(path)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def _is_mirror(remote: Remote) -> bool:
    return any("zhengli97" in url or "koorye" in url for url in remote.urls)


def _served(name: str, remote: Remote, server: FileServer) -> Remote:
    """The small file in place of a remote; it has no address where the true one has none."""
    data = _data(name, remote)
    path = f"{name}/mirror/{remote.name}" if _is_mirror(remote) else f"{name}/{remote.name}"
    urls = (server.add(path, data),) if remote.urls else ()
    checksum = remote.checksum and f"sha256:{hashlib.sha256(data).hexdigest()}"
    return Remote(remote.name, urls, checksum, len(data))


@functools.cache
def _data(name: str, remote: Remote) -> bytes:
    files, folder = tree(name), public.SPECS[name].folder
    if _is_mirror(remote):
        return packed(remote.name, {f"{folder}/{path}": data for path, data in files.items()})
    if remote.name in files:
        return files[remote.name]
    if remote.name == "caltech-101.zip":
        inner = packed("101_ObjectCategories.tar.gz", _below(files, "101_ObjectCategories"))
        notes = packed("Annotations.tar", {"Annotations/Faces_2/annotation_0001.mat": b"no picture"})
        return packed(remote.name, {"caltech-101/101_ObjectCategories.tar.gz": inner, "caltech-101/Annotations.tar": notes})
    if remote.name == "ILSVRC2012_img_train.tar":
        classes = {path.split("/")[2] for path in _below(files, "images/train")}
        return packed(
            remote.name,
            {f"{wnid}.tar": packed(f"{wnid}.tar", _flat(_below(files, f"images/train/{wnid}"))) for wnid in classes},
        )
    if remote.name == "ILSVRC2012_img_val.tar":
        return packed(remote.name, dict(sorted(_flat(_below(files, "images/val")).items())))
    if remote.name == "ILSVRC2012_devkit_t12.tar.gz":
        return packed(remote.name, _devkit())
    folders, new = _ORIGINALS[remote.name]
    return packed(remote.name, {new(path): data for path, data in _below(files, *folders).items()})


# What the original archives hold of CoOp's layout, and how they call it.
_ORIGINALS: dict[str, tuple[tuple[str, ...], Callable[[str], str]]] = {
    "images.tar.gz": (("images",), str),
    "annotations.tar.gz": (("annotations",), str),
    "cars_train.tgz": (("cars_train",), str),
    "cars_test.tgz": (("cars_test",), str),
    "car_devkit.tgz": (("devkit",), str),
    "102flowers.tgz": (("jpg",), str),
    "food-101.tar.gz": (("images", "meta"), "food-101/{}".format),
    "fgvc-aircraft-2013b.tar.gz": (
        ("images", "variants.txt", "families.txt", "images_variant_"),
        "fgvc-aircraft-2013b/data/{}".format,
    ),
    "SUN397.tar.gz": (("SUN397",), str),
    "Partitions.zip": (("ClassName.txt", "Training_01.txt", "Testing_01.txt"), str),
    "dtd-r1.0.1.tar.gz": (("images", "labels"), "dtd/{}".format),
    "EuroSAT.zip": (("2750",), str),
    "EuroSAT_RGB.zip": (("2750",), lambda path: path.replace("2750", "EuroSAT_RGB")),
    "UCF-101-midframes.zip": (("UCF-101-midframes",), str),
    "UCF101TrainTestSplits-RecognitionTask.zip": (("ucfTrainTestlist",), str),
    "imagenetv2-matched-frequency.tar.gz": (("imagenetv2",), str),
    "ImageNet-Sketch.zip": (("images",), lambda path: path.replace("images", "sketch")),
    "imagenet-a.tar": (("imagenet-a",), str),
    "imagenet-r.tar": (("imagenet-r",), str),
}


def _below(files: Mapping[str, bytes], *starts: str) -> dict[str, bytes]:
    return {path: data for path, data in files.items() if path.startswith(starts)}


def _flat(files: Mapping[str, bytes]) -> dict[str, bytes]:
    return {Path(path).name: data for path, data in files.items()}


def _lines(rows: Iterable[str]) -> bytes:
    return "".join(f"{row}\n" for row in rows).encode()


def _matlab(**values: Any) -> bytes:
    buffer = io.BytesIO()
    savemat(buffer, values)
    return buffer.getvalue()


def _structs(names: str, rows: Sequence[tuple[Any, ...]]) -> np.ndarray[Any, Any]:
    """A 1xN array of structs."""
    array = np.empty((1, len(rows)), dtype=[(name, object) for name in names.split()])
    for at, row in enumerate(rows):
        array[0, at] = row
    return array


def _cells(values: Sequence[str]) -> np.ndarray[Any, Any]:
    array = np.empty((1, len(values)), dtype=object)
    array[0, :] = values
    return array


def _spread(folders: Sequence[str], parts: Sequence[str], file: str) -> dict[str, tuple[int, str]]:
    """A picture per part for each folder, in the order of labels; ``file`` is its name with {folder} and {n}."""
    return {
        f"{folder}/{file.format(folder=folder, n=n)}": (label, part)
        for label, folder in enumerate(folders)
        for n, part in enumerate(parts, start=1)
    }


def _caltech() -> Made:
    pictures = _spread(["Faces", "accordion", "airplanes"], MANY, "image_{n:04d}.jpg")
    ignored = [f"101_ObjectCategories/{name}/image_0001.jpg" for name in ("BACKGROUND_Google", "Faces_easy")]
    return Made(("face", "accordion", "airplane"), pictures, {path: jpeg(path, 9) for path in ignored})


def _pets() -> Made:
    breeds = ("Abyssinian", "american_bulldog", "yorkshire_terrier")
    numbers = (1, 10, 100, 101, 34, 5, 7, 8)
    pictures = {
        f"{breed}_{number}.jpg": (label, part)
        for label, breed in enumerate(breeds)
        for number, part in zip(numbers, FEW, strict=True)
    }
    rows = [(f"{Path(path).stem} {label + 1} {min(label, 1) + 1} 1", part) for path, (label, part) in pictures.items()]
    lists = {
        "annotations/trainval.txt": _lines(row for row, part in rows if part != "test"),
        "annotations/test.txt": _lines(row for row, part in rows if part == "test"),
        "annotations/list.txt": _lines(["#Image CLASS-ID SPECIES BREED ID", *(row for row, _ in rows)]),
        "annotations/trimaps/._Abyssinian_1.png": b"no picture",
        "images/Abyssinian_100.mat": b"no picture",
    }
    return Made(("abyssinian", "american_bulldog", "yorkshire_terrier"), pictures, lists)


def _cars() -> Made:
    names = ["AM General Hummer SUV 2000", "Audi TTS Coupe 2012", "smart fortwo Convertible 2012"]
    rows: dict[str, list[tuple[Any, ...]]] = {"cars_train": [], "cars_test": []}
    pictures = {}
    for part in FEW:
        for label in (2, 0, 1):
            folder = "cars_test" if part == "test" else "cars_train"
            file = f"{len(rows[folder]) + 1:05d}.jpg"
            rows[folder].append((1, 2, 20, 18, label + 1, file))
            pictures[f"{folder}/{file}"] = (label, part)
    fields = "bbox_x1 bbox_y1 bbox_x2 bbox_y2 class fname"
    files = {
        "devkit/cars_meta.mat": _matlab(class_names=_cells(names)),
        "devkit/cars_train_annos.mat": _matlab(annotations=_structs(fields, rows["cars_train"])),
        "cars_test_annos_withlabels.mat": _matlab(annotations=_structs(fields, rows["cars_test"])),
    }
    return Made(("2000 AM General Hummer SUV", "2012 Audi TTS Coupe", "2012 smart fortwo Convertible"), pictures, files)


def _flowers() -> Made:
    names = ("pink primrose", "hard-leaved pocket orchid", "colt's foot")
    labels = [label for _ in MANY for label in (1, 2, 0)]
    pictures = {f"image_{at:05d}.jpg": (label, MANY[(at - 1) // 3]) for at, label in enumerate(labels, start=1)}
    files = {
        "imagelabels.mat": _matlab(labels=np.array([[label + 1 for label in labels]], dtype=np.uint8)),
        "cat_to_name.json": json.dumps({str(label + 1): name for label, name in enumerate(names)}).encode(),
    }
    return Made(names, pictures, files)


def _food() -> Made:
    names = ("apple_pie", "baklava", "waffles")
    pictures = _spread(names, MANY, "{n}00134.jpg")
    return Made(names, pictures, {"meta/classes.txt": _lines(names)})


def _aircraft() -> Made:
    names = ("707-320", "Boeing 717", "F-16A/B")
    numbers = iter(range(34309, 99999, 1117))
    parts = ("train", "train", "train", "val", "test", "test")
    pictures = {f"{next(numbers):07d}.jpg": (label, part) for part in parts for label in (2, 0, 1)}
    lists = {
        f"images_variant_{part}.txt": _lines(
            f"{path.removesuffix('.jpg')} {names[label]}" for path, (label, of) in pictures.items() if of == part
        )
        for part in ("train", "val", "test")
    }
    return Made(names, pictures, lists | {"variants.txt": _lines(names), "families.txt": _lines(["Boeing 707", "F-16"])})


def _sun() -> Made:
    folders = ("/a/abbey", "/a/apse/indoor", "/i/ice_skating_rink/outdoor")
    pictures = {path.lstrip("/"): where for path, where in _spread(folders, FEW, "sun_abc{n}def.jpg").items()}
    unused = "SUN397/a/abbey/sun_unused.jpg"
    lists = {
        "ClassName.txt": _lines(folders),
        "Training_01.txt": _lines(f"/{path}" for path, (_, part) in pictures.items() if part != "test"),
        "Testing_01.txt": _lines(f"/{path}" for path, (_, part) in pictures.items() if part == "test"),
        unused: jpeg(unused, 9),
    }
    return Made(("abbey", "indoor apse", "outdoor ice_skating_rink"), pictures, lists)


def _textures() -> Made:
    names = ("banded", "polka-dotted", "zigzagged")
    pictures = _spread(names, MANY, "{folder}_{n:04d}.jpg")
    return Made(names, pictures, {"labels/train1.txt": _lines(list(pictures)[:4])})


def _eurosat() -> Made:
    pictures = _spread(["AnnualCrop", "Forest", "SeaLake"], MANY, "{folder}_{n}.jpg")
    return Made(("Annual Crop Land", "Forest", "Sea or Lake"), pictures)


def _ucf() -> Made:
    names = ("Apply_Eye_Makeup", "Handstand_Pushups", "Yo_Yo")
    actions, videos = ("ApplyEyeMakeup", "HandstandPushups", "YoYo"), ("ApplyEyeMakeup", "HandStandPushups", "YoYo")
    pictures: dict[str, tuple[int, str]] = {}
    lists: dict[str, list[str]] = {"trainlist01": [], "testlist01": []}
    for label, name in enumerate(names):
        for n, part in enumerate(FEW, start=1):
            video = f"v_{videos[label]}_g{n:02d}_c01"
            pictures[f"{name}/{video}.jpg"] = (label, part)
            test = part == "test"
            line = f"{actions[label]}/{video}.avi" + ("" if test else f" {label + 1}")
            lists["testlist01" if test else "trainlist01"].append(line)
    files = {f"ucfTrainTestlist/{list_}.txt": _lines(rows) for list_, rows in lists.items()}
    files["ucfTrainTestlist/classInd.txt"] = _lines(f"{label + 1} {action}" for label, action in enumerate(actions))
    return Made(names, pictures, files)


def _imagenet() -> Made:
    pictures = {
        f"train/{wnid}/{wnid}_{n}.JPEG": (label, "train" if n < 6 else "val")
        for label, wnid in enumerate(WNIDS)
        for n in range(1, 7)
    }
    for at in range(2 * len(WNIDS)):
        label = (at * 4 + 3) % len(WNIDS)
        pictures[f"val/{WNIDS[label]}/ILSVRC2012_val_{at + 1:08d}.JPEG"] = (label, "test")
    return Made(FISH_AND_FOWL, pictures)


def _devkit() -> dict[str, bytes]:
    """The numbers of the kit are no labels: here they run backwards, after one that is no leaf of the tree."""
    ids = {wnid: len(WNIDS) - label for label, wnid in enumerate(WNIDS)}
    rows = [(number, wnid, "words", 0) for wnid, number in sorted(ids.items(), key=lambda pair: pair[1])]
    rows.append((len(WNIDS) + 1, "n00001740", "entity", 3))
    truth = {path: path.split("/")[1] for path in made("imagenet").pictures if path.startswith("val/")}
    return {
        "ILSVRC2012_devkit_t12/data/meta.mat": _matlab(synsets=_structs("ILSVRC2012_ID WNID words num_children", rows).T),
        "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt": _lines(
            str(ids[truth[path]]) for path in sorted(truth, key=lambda path: Path(path).name)
        ),
        "ILSVRC2012_devkit_t12/readme.txt": b"no picture",
    }


def _variant(file: str, *labels: int, folders: Sequence[str] = WNIDS) -> Made:
    pictures = _spread([folders[label] for label in labels], ("test", "test"), file)
    return Made(tuple(FISH_AND_FOWL[label] for label in labels), pictures)


def _read_me(folder: str, what: Made) -> Made:
    return replace(what, extra={f"{folder}/README.txt": b"no picture"})


_MAKERS: dict[str, Callable[[], Made]] = {
    "imagenet": _imagenet,
    "caltech101": _caltech,
    "oxford_pets": _pets,
    "stanford_cars": _cars,
    "oxford_flowers": _flowers,
    "food101": _food,
    "fgvc_aircraft": _aircraft,
    "sun397": _sun,
    "dtd": _textures,
    "eurosat": _eurosat,
    "ucf101": _ucf,
    "imagenetv2": lambda: _variant("c0ffee{n}.jpeg", *range(11), folders=[str(label) for label in range(11)]),
    "imagenet_sketch": lambda: _variant("sketch_{n}.JPEG", *range(11)),
    "imagenet_a": lambda: _read_me("imagenet-a", _variant("0.000{n}_fox _ 0.9.jpg", 1, 4, 10)),
    "imagenet_r": lambda: _read_me("imagenet-r", _variant("art_{n}.jpg", 0, 4, 7)),
}
