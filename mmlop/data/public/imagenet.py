"""ImageNet, which has to be downloaded by hand, and its variants, which show its classes otherwise."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from mmlop.data.archives import named, unpack
from mmlop.data.download import Remote, need_room, verify
from mmlop.data.public.layouts import class_folders, matlab, pictures_in, text_lines
from mmlop.data.public.record import Item, Layout, Parts, Public
from mmlop.errors import MmlopError

DEVKIT = "ILSVRC2012_devkit_t12"
DEVKIT_FILES = ("data/meta.mat", "data/ILSVRC2012_validation_ground_truth.txt")


def names_by_wnid() -> dict[str, str]:
    """The names of the 1000 classes, in the order of their labels, which is that of their WordNet ids. Two names occur
    twice (missile and sunglasses): it is the label that tells classes apart."""
    from open_clip import IMAGENET_CLASSNAMES
    from timm.data.imagenet_info import ImageNetInfo

    wnids = ImageNetInfo("imagenet-1k").label_names()  # type: ignore[no-untyped-call]
    return dict(zip(wnids, IMAGENET_CLASSNAMES, strict=True))


def by_wnid(pictures: str) -> Layout:
    """A variant with a folder per class, named by WordNet id: its classes are those that have a folder."""
    return lambda where: {"test": _items(where / pictures)}


def by_number(pictures: str) -> Layout:
    """A variant with a folder per class, named by ImageNet's label: as a number, 10 comes after 9."""

    def read(where: Path) -> Parts:
        names = list(names_by_wnid().values())
        labels = sorted(int(name) for name in class_folders(where / pictures) if name.isdecimal())
        paths = ((label, path) for label in labels for path in pictures_in(where / pictures, str(label)))
        return {"test": [Item(path, label, names[label]) for label, path in paths]}

    return read


def original(where: Path) -> Parts:
    """ImageNet itself, as images/train/<wnid>/ and images/val/<wnid>/; papers test on the latter."""
    images = where / "images"
    return {
        part: [item._replace(path=f"{folder}/{item.path}") for item in _items(images / folder)]
        for part, folder in (("train", "train"), ("test", "val"))
    }


def arrange(spec: Public, where: Path) -> None:
    """Unpack the archives that were put into the data set's folder: images/train/<wnid>/ and images/val/<wnid>/.

    Does what the files there allow, and takes up where it was left. Raises MmlopError, saying which file belongs where,
    if one is missing.
    """
    (train, val, devkit), images = spec.sources[0], where / "images"
    needed = {"train": spec.counts[0] + spec.counts[1], "val": spec.counts[2]}
    lacking: list[Remote] = []
    if _count(images / "train") < needed["train"]:
        if absent := _absent((train,), where):
            lacking += absent
        else:
            _unpack_train(train, where)
    if _count(images / "val") < needed["val"]:
        if absent := _absent((val, devkit), where):
            lacking += absent
        else:
            _unpack_val(val, devkit, where)
    if lacking:
        there = " and ".join(f"{_count(images / part)} of {needed[part]} pictures in images/{part}" for part in needed)
        raise MmlopError(
            f"{spec.title} has to be downloaded by hand ({there}): register at {spec.page}, accept its terms, and put "
            f"{', '.join(file.name for file in lacking)} into {where} (or a copy you have as images/train/<wnid>/ and "
            f"images/val/<wnid>/ in there), then fetch it again."
        )


def _absent(files: tuple[Remote, ...], where: Path) -> list[Remote]:
    return [file for file in files if not (where / file.name).exists()]


def _unpack_train(train: Remote, where: Path) -> None:
    """An archive of archives, one per class; a picture's name begins with its class."""
    verify(train, where / train.name)
    need_room(where, train.size or 0, f"unpacking {train.name}")
    unpack(
        where / train.name,
        where / "images/train",
        lambda member: PurePosixPath(member.name.partition("_")[0], member.name),
        inside=lambda member: member.suffix == ".tar",
    )


def _unpack_val(val: Remote, devkit: Remote, where: Path) -> None:
    """One flat archive; the development kit says which class a picture is of."""
    verify(devkit, where / devkit.name)
    verify(val, where / val.name)
    need_room(where, val.size or 0, f"unpacking {val.name}")
    unpack(where / devkit.name, where / DEVKIT, named(DEVKIT_FILES))
    folders = _validation_folders(where / DEVKIT)

    def place(member: PurePosixPath) -> PurePosixPath | None:
        return PurePosixPath(folders[member.name], member.name) if member.name in folders else None

    unpack(where / val.name, where / "images/val", place)


def _items(folder: Path) -> list[Item]:
    names = names_by_wnid()
    wnids = [wnid for wnid in class_folders(folder) if wnid in names]
    return [Item(path, label, names[wnid]) for label, wnid in enumerate(wnids) for path in pictures_in(folder, wnid)]


def _count(folder: Path) -> int:
    return sum(1 for _ in folder.glob("n*/*.JPEG"))


def _validation_folders(devkit: Path) -> dict[str, str]:
    """The class (WordNet id) of each validation picture. Its numbers are the devkit's own, not labels."""
    synsets = matlab(devkit / DEVKIT_FILES[0], "synsets")
    wnid_of = {int(number): str(wnid) for number, wnid in zip(synsets["ILSVRC2012_ID"], synsets["WNID"], strict=True)}
    numbers = map(int, text_lines(devkit / DEVKIT_FILES[1]))
    return {f"ILSVRC2012_val_{at:08d}.JPEG": wnid_of[number] for at, number in enumerate(numbers, start=1)}
