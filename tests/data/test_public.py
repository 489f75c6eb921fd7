"""The fifteen public data sets, from small archives of their true layouts on a server of our own."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from file_server import Fault, FileServer
from public_archives import by_hand, lay, made, split_file, tiny, tree

from mmlop import config
from mmlop.data import public
from mmlop.data.download import DiskFull, Remote
from mmlop.data.manifest import Contents, Picture, content_of
from mmlop.data.public import SPECS, Public, contents, table
from mmlop.errors import MmlopError

pytest_plugins = ["file_server", "small_disk"]

NAMES = [
    "imagenet",
    *("caltech101", "oxford_pets", "stanford_cars", "oxford_flowers", "food101"),
    *("fgvc_aircraft", "sun397", "dtd", "eurosat", "ucf101"),
    *("imagenetv2", "imagenet_sketch", "imagenet_a", "imagenet_r"),
]
OTHERS = NAMES[1:]  # all that can be downloaded
SPLIT = [name for name in OTHERS if SPECS[name].split]  # those with a split file
OFFICIAL = ("oxford_pets", "stanford_cars", "sun397", "ucf101")  # those with an official test part
MIRRORED = ("stanford_cars", "sun397")  # those whose own hosts are gone


def expected(name: str, part: str) -> list[tuple[str, int]]:
    """Paths and labels of a part, in order: of the split file, of the official lists, or of folders and files."""
    if SPECS[name].split:
        return [(path, label) for path, label, _ in json.loads(split_file(name))[part]]
    found = [(path, label) for path, (label, of) in made(name).pictures.items() if of == part]
    return found if name == "fgvc_aircraft" else sorted(found, key=lambda pair: (pair[1], pair[0]))


def check(name: str, found: Contents) -> None:
    """That these are the published contents, hashes and order and all."""
    assert (found.classes, found.split, found.skipped) == (made(name).classes, "published", ())
    folder = f"{SPECS[name].pictures}/".lstrip("/")
    assert found.pictures == tuple(
        Picture(path, label, part, content_of(tree(name)[f"{folder}{path}"]))
        for part in ("train", "val", "test")
        for path, label in expected(name, part)
    )


def refuse(server: FileServer, name: str, *remotes: Remote) -> None:
    for remote in remotes:
        for url in remote.urls:
            server.fault(url.split("/", 3)[3], Fault(status=404))


def refuse_split(server: FileServer, spec: Public) -> None:
    assert spec.split
    refuse(server, spec.name, spec.split)


def files_below(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


def test_the_fifteen_are_in_the_order_of_papers() -> None:
    assert list(SPECS) == NAMES
    assert all(name == spec.name for name, spec in SPECS.items())


@pytest.mark.parametrize("name", NAMES)
def test_a_record_is_sound(name: str) -> None:
    spec = SPECS[name]
    assert spec.template.count("{}") == 1
    assert spec.title
    assert spec.licence
    assert spec.page.startswith("https://")
    assert spec.variant_of == ("imagenet" if name.startswith("imagenet") and name != "imagenet" else None)
    assert bool(spec.step) == (name == "imagenet")
    remotes = [remote for group in spec.sources for remote in group] + [one.remote for one in spec.annotations]
    for remote in [*remotes, *([spec.split] if spec.split else [])]:
        kind, _, digest = (remote.checksum or "sha256:" + "0" * 64).partition(":")
        assert len(digest) == {"md5": 32, "sha256": 64, "git": 40}[kind]
        assert set(digest) <= set("0123456789abcdef")
        assert all(url.startswith(("http://", "https://")) for url in remote.urls)
    if spec.split:
        assert spec.split.checksum
        assert len(spec.split.urls) == 2


@pytest.mark.parametrize("name", OTHERS)
def test_contents_are_as_published(name: str, file_server: FileServer, tmp_path: Path) -> None:
    spec = tiny(name, file_server)
    check(name, contents(spec, tmp_path, own_split=False))
    assert public.pictures(spec, tmp_path) == tmp_path / spec.folder / spec.pictures

    # Nothing of another's is left, nothing is downloaded again, and the tree is one that CoOp's code can read.
    archives = {remote.name for group in spec.sources for remote in group}
    assert not archives & files_below(tmp_path / spec.folder)
    asked = len(file_server.requests)
    check(name, contents(spec, tmp_path, own_split=False))
    assert len(file_server.requests) == asked


@pytest.mark.parametrize("name", OTHERS)
def test_each_source_will_do(name: str, file_server: FileServer, tmp_path: Path) -> None:
    spec = tiny(name, file_server)
    for number, group in enumerate(spec.sources):
        if not group[0].urls:
            continue
        alone = replace(spec, sources=(group,))
        check(name, contents(alone, tmp_path / str(number), own_split=False))


@pytest.mark.parametrize("name", [name for name in OTHERS if name != "sun397"])  # which is to be had in one place only
def test_a_source_that_is_gone_gives_way_to_the_next(name: str, file_server: FileServer, tmp_path: Path) -> None:
    spec = tiny(name, file_server)
    refuse(file_server, name, *spec.sources[0])
    check(name, contents(spec, tmp_path, own_split=False))


@pytest.mark.parametrize("name", NAMES)
def test_what_coop_has_is_used_without_a_request(name: str, file_server: FileServer, tmp_path: Path) -> None:
    lay(name, tmp_path)
    before = files_below(tmp_path)
    found = contents(tiny(name, file_server), tmp_path, own_split=False)
    assert file_server.requests == []
    assert files_below(tmp_path) == before | {f"{SPECS[name].folder}/.hashes.sqlite"}
    if name != "imagenet":  # which gets a validation part of its own
        check(name, found)


@pytest.mark.parametrize("name", ["stanford_cars", "sun397", "caltech101", "imagenet_a"])
def test_archives_put_there_by_hand_come_first_and_stay(name: str, file_server: FileServer, tmp_path: Path) -> None:
    spec = tiny(name, file_server)
    where = tmp_path / spec.folder
    where.mkdir()
    pictures = spec.sources[-1 if name in MIRRORED else 0]
    for remote in pictures:
        (where / remote.name).write_bytes(by_hand(name)[remote.name])
    check(name, contents(spec, tmp_path, own_split=False))
    assert {remote.name for remote in pictures} <= files_below(where)
    assert len(file_server.requests) == (1 if spec.split else 0)


def test_what_was_downloaded_before_a_failure_is_not_downloaded_again(file_server: FileServer, tmp_path: Path) -> None:
    spec = tiny("eurosat", file_server)
    first, second = spec.sources[0][0], spec.sources[2][0]
    spec = replace(spec, sources=((first, second),))
    file_server.fault("eurosat/mirror/eurosat.zip", Fault(status=404), times=1)
    with pytest.raises(MmlopError, match=r"eurosat\.zip could not be downloaded"):
        contents(spec, tmp_path, own_split=False)
    assert (tmp_path / "eurosat/EuroSAT.zip").exists()
    check("eurosat", contents(spec, tmp_path, own_split=False))
    assert len(file_server.asked("eurosat/EuroSAT.zip")) == 1
    assert not {"EuroSAT.zip", "eurosat.zip"} & files_below(tmp_path / "eurosat")


def test_a_damaged_archive_without_a_checksum_is_downloaded_again(file_server: FileServer, tmp_path: Path) -> None:
    spec = tiny("imagenetv2", file_server)
    spec = replace(spec, sources=spec.sources[:1])
    path = "imagenetv2/imagenetv2-matched-frequency.tar.gz"
    file_server.fault(path, Fault(body=by_hand("imagenetv2")["imagenetv2-matched-frequency.tar.gz"][:3000]), times=1)
    with pytest.raises(MmlopError, match=r"imagenetv2-matched-frequency\.tar\.gz"):
        contents(spec, tmp_path, own_split=False)
    check("imagenetv2", contents(spec, tmp_path, own_split=False))
    assert len(file_server.asked(path)) == 2


@pytest.mark.parametrize("name", ["dtd", "imagenet_r"])
def test_a_wrong_archive_put_there_by_hand_is_named(name: str, file_server: FileServer, tmp_path: Path) -> None:
    spec = tiny(name, file_server)
    file = tmp_path / spec.folder / spec.sources[0][0].name
    file.parent.mkdir()
    file.write_bytes(b"half of it")
    with pytest.raises(MmlopError, match=rf"{file.name} is not the file it should be"):
        contents(replace(spec, sources=spec.sources[:1]), tmp_path, own_split=False)
    assert file.read_bytes() == b"half of it"


def test_only_what_is_missing_is_unpacked(file_server: FileServer, tmp_path: Path) -> None:
    spec = tiny("eurosat", file_server)
    lay("eurosat", tmp_path)
    lost = tmp_path / "eurosat/2750/Forest/Forest_3.jpg"
    lost.unlink()
    other = tmp_path / "eurosat/2750/Forest/Forest_4.jpg"
    before = other.stat().st_mtime_ns
    check("eurosat", contents(spec, tmp_path, own_split=False))
    assert lost.exists()
    assert other.stat().st_mtime_ns == before


@pytest.mark.parametrize("name", SPLIT)
def test_only_the_pictures_of_the_split_are_unpacked(name: str, file_server: FileServer, tmp_path: Path) -> None:
    spec = tiny(name, file_server)
    contents(spec, tmp_path, own_split=False)
    there = {path for path in files_below(tmp_path / spec.folder / spec.pictures) if not Path(path).name.startswith(".")}
    assert there - {spec.split.name if spec.split else ""} == set(made(name).pictures)


def per_class(found: Contents, part: str) -> set[int]:
    """How many pictures of the part classes have."""
    return set(Counter(picture.label for picture in found.pictures if picture.part == part).values())


@pytest.mark.parametrize("name", SPLIT)
def test_a_split_of_ones_own_follows_coops_rule(name: str, file_server: FileServer, tmp_path: Path) -> None:
    spec = tiny(name, file_server)
    if name in MIRRORED:  # what their lists were in can no longer be downloaded
        spec = replace(spec, sources=spec.sources[-1:])
        (tmp_path / spec.folder).mkdir()
        for file, data in by_hand(name).items():
            (tmp_path / spec.folder / file).write_bytes(data)
    refuse_split(file_server, spec)
    found = contents(spec, tmp_path, own_split=True)
    assert found.split == "own"
    assert found.classes == made(name).classes
    assert {picture.path: picture.label for picture in found.pictures} == {
        path: label for path, (label, _) in made(name).pictures.items()
    }
    assert len(found.pictures) == len(made(name).pictures)
    for picture in found.pictures:
        assert picture.content == content_of((public.pictures(spec, tmp_path) / picture.path).read_bytes())
    if name in OFFICIAL:
        assert [per_class(found, part) for part in ("train", "val", "test")] == [{5}, {1}, {2}]
        official = {path for path, (_, part) in made(name).pictures.items() if part == "test"}
        assert {picture.path for picture in found.pictures if picture.part == "test"} == official
    else:
        assert [per_class(found, part) for part in ("train", "val", "test")] == [{5}, {2}, {3}]

    asked = len(file_server.requests)
    assert contents(spec, tmp_path, own_split=True) == found
    assert {request.path for request in file_server.requests[asked:]} == {f"{name}/{spec.split and spec.split.name}"}


@pytest.mark.parametrize("name", SPLIT)
def test_an_own_split_of_a_mirrored_tree(name: str, file_server: FileServer, tmp_path: Path) -> None:
    spec = tiny(name, file_server)
    refuse_split(file_server, spec)
    for group in spec.sources:
        if "mirror" not in "".join(group[0].urls):
            refuse(file_server, name, *group)
    for one in spec.annotations:
        refuse(file_server, name, one.remote)
    found = contents(spec, tmp_path, own_split=True)
    assert (found.split, found.classes) == ("own", made(name).classes)
    assert len(found.pictures) == len(made(name).pictures)


def test_an_own_split_is_none_where_the_published_one_is_to_be_had(file_server: FileServer, tmp_path: Path) -> None:
    check("dtd", contents(tiny("dtd", file_server), tmp_path, own_split=True))


def test_another_split_is_refused_unless_it_will_do(file_server: FileServer, tmp_path: Path) -> None:
    spec = tiny("dtd", file_server)
    lay("dtd", tmp_path)
    file = tmp_path / "dtd/split_zhou_DescribableTextures.json"
    rows = json.loads(file.read_bytes())
    rows["train"], rows["val"] = rows["val"], rows["train"]
    file.write_text(json.dumps(rows))
    with pytest.raises(MmlopError) as caught:
        contents(spec, tmp_path, own_split=False)
    assert str(caught.value) == (
        f"{file} is not the split that papers use (CoOp's code makes one of its own under this name): remove it to "
        "download the published one, or, if this one will do, add dtd to `data.own_split` in params.yaml "
        "(`mmlop data fetch dtd --own-split`)."
    )
    found = contents(spec, tmp_path, own_split=True)
    assert found.split == "own"
    assert [p.path for p in found.pictures if p.part == "train"] == [path for path, _, _ in rows["train"]]
    assert file_server.requests == []

    file.unlink()
    check("dtd", contents(spec, tmp_path, own_split=False))


def test_a_split_of_fewer_pictures_is_as_good_as_any_other_of_ones_own(file_server: FileServer, tmp_path: Path) -> None:
    lay("dtd", tmp_path)
    file = tmp_path / "dtd/split_zhou_DescribableTextures.json"
    rows = json.loads(file.read_bytes())
    rows = {part: [row for row in rows[part] if "_0001" not in row[0] and "_0010" not in row[0]] for part in rows}
    file.write_text(json.dumps(rows))
    for row in made("dtd").pictures:
        if "_0001" in row:
            (tmp_path / "dtd/images" / row).unlink()  # what the split does not name need not be there
    found = contents(tiny("dtd", file_server), tmp_path, own_split=True)
    assert (found.split, len(found.pictures)) == ("own", 8 * 3)
    assert file_server.requests == []


@pytest.mark.parametrize(
    ("name", "folder", "count"),
    [
        ("imagenet", "images/train", 66),
        ("imagenet", "images/val", 22),
        ("imagenetv2", "imagenetv2-matched-frequency-format-val", 22),
        ("imagenet_sketch", "images", 22),
        ("imagenet_a", "imagenet-a", 6),
        ("imagenet_r", "imagenet-r", 6),
    ],
)
def test_more_than_was_published_is_refused(
    name: str, folder: str, count: int, file_server: FileServer, tmp_path: Path
) -> None:
    lay(name, tmp_path)
    where = tmp_path / SPECS[name].folder / folder
    some = sorted(file for file in where.rglob("*") if file.suffix.lower() in (".jpg", ".jpeg"))[:2]
    more = [Path(shutil.copy(file, file.with_name(f"copy of {file.name}"))) for file in some]
    with pytest.raises(MmlopError) as caught:
        contents(tiny(name, file_server), tmp_path, own_split=False)
    assert str(caught.value) == (
        f"{SPECS[name].title}: {where} holds 2 more than the {count} pictures that were published: remove those that do "
        f"not belong there."
    )
    for file in more:
        file.unlink()
    contents(tiny(name, file_server), tmp_path, own_split=False)
    assert file_server.requests == []


def test_lists_of_more_than_was_published_are_refused(file_server: FileServer, tmp_path: Path) -> None:
    lay("fgvc_aircraft", tmp_path)
    where = tmp_path / "fgvc_aircraft"
    shutil.copy(where / "images/0034309.jpg", where / "images/1.jpg")
    with (where / "images_variant_test.txt").open("a") as lines:
        lines.write("1 707-320\n")
    with pytest.raises(MmlopError, match=rf"FGVCAircraft: {where / 'images'} holds 1 more than the 6 pictures"):
        contents(tiny("fgvc_aircraft", file_server), tmp_path, own_split=False)


def test_no_split_to_be_had(file_server: FileServer, tmp_path: Path) -> None:
    spec = tiny("oxford_pets", file_server)
    refuse_split(file_server, spec)
    with pytest.raises(MmlopError) as caught:
        contents(spec, tmp_path, own_split=False)
    message = str(caught.value)
    assert message.startswith(
        "OxfordPets: the split that papers use cannot be had: split_zhou_OxfordPets.json could not be"
    )
    assert "HTTP status 404" in message
    assert message.endswith(
        f"Put split_zhou_OxfordPets.json into {tmp_path / 'oxford_pets'} by hand, or, if a split of your own will do, add "
        "oxford_pets to `data.own_split` in params.yaml (`mmlop data fetch oxford_pets --own-split`)."
    )
    (tmp_path / "oxford_pets/split_zhou_OxfordPets.json").write_bytes(split_file("oxford_pets"))
    check("oxford_pets", contents(spec, tmp_path, own_split=False))


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"train": [["a.jpg", "0", "a"]], "val": [], "test": []}', '{"train": [[1]]}']
)
def test_a_file_that_is_no_split(content: str, file_server: FileServer, tmp_path: Path) -> None:
    lay("dtd", tmp_path)
    (tmp_path / "dtd/split_zhou_DescribableTextures.json").write_text(content)
    with pytest.raises(MmlopError, match=r"split_zhou_DescribableTextures\.json is not a split file"):
        contents(tiny("dtd", file_server), tmp_path, own_split=True)


@pytest.mark.parametrize("path", ["../secret.jpg", "/etc/secret.jpg", "banded/../../secret.jpg"])
def test_a_split_names_no_file_elsewhere(path: str, file_server: FileServer, tmp_path: Path) -> None:
    lay("dtd", tmp_path)
    rows = {"train": [[path, 0, "banded"]], "val": [], "test": []}
    (tmp_path / "dtd/split_zhou_DescribableTextures.json").write_text(json.dumps(rows))
    with pytest.raises(MmlopError, match="is no picture"):
        contents(tiny("dtd", file_server), tmp_path, own_split=True)


def test_pictures_that_no_source_has(file_server: FileServer, tmp_path: Path) -> None:
    """The split names pictures that neither archive holds: all that went wrong is one sentence."""
    spec = tiny("eurosat", file_server)
    rows = json.loads(split_file("eurosat"))
    rows["test"] += [[f"River/River_{n}.jpg", 3, "River"] for n in range(5)]
    (tmp_path / "eurosat").mkdir()
    (tmp_path / "eurosat/split_zhou_EuroSAT.json").write_text(json.dumps(rows))
    refuse(file_server, "eurosat", *spec.sources[1])
    with pytest.raises(MmlopError) as caught:
        contents(replace(spec, classes=4), tmp_path, own_split=True)
    message = str(caught.value)
    assert f"EuroSAT in {tmp_path / 'eurosat'} is not whole: 5 of 35 pictures are missing" in message
    assert "River/River_0.jpg, River/River_1.jpg, River/River_2.jpg, ..." in message
    assert "EuroSAT.zip did not make it whole" in message
    assert "EuroSAT_RGB.zip could not be downloaded" in message
    assert "eurosat.zip did not make it whole" in message


@pytest.mark.parametrize(("name", "pictures"), [("imagenet_a", 2), ("food101", 10)])
def test_an_archive_that_lacks_a_class(name: str, pictures: int, file_server: FileServer, tmp_path: Path) -> None:
    spec = tiny(name, file_server)
    spec = replace(spec, classes=4, counts=(spec.counts[0], spec.counts[1], spec.counts[2] + pictures))
    if spec.split:
        refuse_split(file_server, spec)
    with pytest.raises(MmlopError, match=rf"{spec.title} in .* it has pictures of 3 of 4 classes"):
        contents(spec, tmp_path, own_split=True)


def test_half_a_variant_is_downloaded_again(file_server: FileServer, tmp_path: Path) -> None:
    """As after an unpacking that was stopped, where all that a folder tells is which pictures there are."""
    lay("imagenet_r", tmp_path)
    (tmp_path / "imagenet-rendition/imagenet-r/n01514668/art_2.jpg").unlink()
    check("imagenet_r", contents(tiny("imagenet_r", file_server), tmp_path, own_split=False))
    assert len(file_server.requests) == 1


def test_a_class_without_pictures_is_named(file_server: FileServer, tmp_path: Path) -> None:
    lay("imagenet_r", tmp_path)
    for file in (tmp_path / "imagenet-rendition/imagenet-r/n01514668").iterdir():
        file.unlink()
    with pytest.raises(MmlopError, match=r"there is no picture in .*n01514668"):
        contents(replace(tiny("imagenet_r", file_server), sources=()), tmp_path, own_split=False)


def test_damaged_annotations_are_named(file_server: FileServer, tmp_path: Path) -> None:
    spec = replace(tiny("stanford_cars", file_server), sources=())
    refuse_split(file_server, spec)
    lay("stanford_cars", tmp_path)
    (tmp_path / "stanford_cars/split_zhou_StanfordCars.json").unlink()
    (tmp_path / "stanford_cars/devkit/cars_meta.mat").write_bytes(b"half of it")
    with pytest.raises(MmlopError, match=r"cars_meta\.mat is damaged"):
        contents(spec, tmp_path, own_split=True)
    (tmp_path / "stanford_cars/devkit/cars_meta.mat").unlink()
    (tmp_path / "stanford_cars/cars_test_annos_withlabels.mat").unlink()
    with pytest.raises(MmlopError) as caught:
        contents(spec, tmp_path, own_split=True)
    assert "there is no file" in str(caught.value)
    assert "cars_test_annos_withlabels.mat is no longer published: if you have it, put it into" in str(caught.value)


def test_too_small_a_disk_is_told_before_any_download(file_server: FileServer, tmp_path: Path) -> None:
    spec = replace(tiny("food101", file_server), gigabytes=1e9)
    with pytest.raises(MmlopError, match=r"Food101 needs .* are free"):
        contents(spec, tmp_path, own_split=False)
    assert [Path(request.path).name for request in file_server.requests] == ["split_zhou_Food101.json"]


def test_what_is_there_already_needs_no_room(file_server: FileServer, tmp_path: Path) -> None:
    """A download that was stopped goes on, though what it left free would not hold all of it again."""
    lay("food101", tmp_path)
    (tmp_path / "food-101/images/waffles/100134.jpg").unlink()
    free = shutil.disk_usage(tmp_path).free
    spec = replace(tiny("food101", file_server), gigabytes=free / 1e9)
    with pytest.raises(MmlopError, match="Food101 needs"):
        contents(spec, tmp_path, own_split=False)
    with (tmp_path / "food-101/part").open("wb") as part:
        part.truncate(free * 3 // 2)  # a file with a hole takes no room itself
    check("food101", contents(spec, tmp_path, own_split=False))


def fill_up(disk: Path, left: int) -> Path:
    """A file that leaves so many bytes of the disk."""
    file = disk / "other"
    file.write_bytes(bytes(shutil.disk_usage(disk).free - left))
    return file


def test_a_disk_that_is_full_costs_no_archive(file_server: FileServer, small_disk: Path) -> None:
    """Whether or not there is a checksum of it. And no other source would help."""
    spec = replace(tiny("imagenetv2", file_server), gigabytes=0)
    first = spec.sources[0][0]
    assert first.checksum is None
    assert first.size
    other = fill_up(small_disk, left=first.size + 50_000)  # of 22 pictures, each of a page at least
    with pytest.raises(DiskFull, match=f"disk of {small_disk / 'imagenetv2'}.* is full"):
        contents(spec, small_disk, own_split=False)
    assert (small_disk / "imagenetv2" / first.name).stat().st_size == first.size
    assert len(list((small_disk / "imagenetv2" / spec.pictures).rglob("*.jpeg"))) > 2
    other.unlink()
    check("imagenetv2", contents(spec, small_disk, own_split=False))
    assert [request.path for request in file_server.requests] == [f"imagenetv2/{first.name}"]
    assert not (small_disk / "imagenetv2" / first.name).exists()


@pytest.mark.parametrize("name", ["dtd", "oxford_flowers"])
def test_a_full_disk_is_no_split_that_cannot_be_had(name: str, file_server: FileServer, small_disk: Path) -> None:
    """Nor are lists, or pictures, that cannot be had: one would look for them elsewhere in vain."""
    spec = replace(tiny(name, file_server), gigabytes=0)
    if name == "oxford_flowers":
        refuse_split(file_server, spec)
    (small_disk / spec.folder).mkdir()
    fill_up(small_disk, left=0)
    with pytest.raises(DiskFull) as caught:
        contents(spec, small_disk, own_split=True)
    assert not str(caught.value).startswith(spec.title)
    assert {Path(request.path).name for request in file_server.requests} <= {spec.split and spec.split.name}


def test_a_data_home_that_cannot_be(file_server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MmlopError, match="set MMLOP_DATA to another folder"):
        contents(tiny("dtd", file_server), tmp_path / "file", own_split=False)


def test_imagenet_by_hand_step_by_step(file_server: FileServer, tmp_path: Path) -> None:
    spec, files, where = tiny("imagenet", file_server), by_hand("imagenet"), tmp_path / "imagenet"
    with pytest.raises(MmlopError) as caught:
        contents(spec, tmp_path, own_split=False)
    assert str(caught.value) == (
        "ImageNet has to be downloaded by hand (0 of 66 pictures in images/train and 0 of 22 pictures in images/val): "
        "register at https://image-net.org, accept its terms, and put "
        "ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar, ILSVRC2012_devkit_t12.tar.gz into "
        f"{where} (or a copy you have as images/train/<wnid>/ and images/val/<wnid>/ in there), then fetch it again."
    )
    for name, left in (
        ("ILSVRC2012_img_val.tar", "put ILSVRC2012_img_train.tar, ILSVRC2012_devkit_t12.tar.gz into"),
        ("ILSVRC2012_img_train.tar", "put ILSVRC2012_devkit_t12.tar.gz into"),
    ):
        (where / name).write_bytes(files[name])
        with pytest.raises(MmlopError, match=left):
            contents(spec, tmp_path, own_split=False)
    assert len(list(where.glob("images/train/*/*.JPEG"))) == 66  # what could be done is done
    (where / "ILSVRC2012_img_train.tar").unlink()
    (where / "ILSVRC2012_devkit_t12.tar.gz").write_bytes(files["ILSVRC2012_devkit_t12.tar.gz"])
    found = contents(spec, tmp_path, own_split=False)
    assert file_server.requests == []
    check_imagenet(found)

    for file in ("ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz"):
        (where / file).unlink()
    assert contents(spec, tmp_path, own_split=False) == found


def check_imagenet(found: Contents) -> None:
    true = made("imagenet")
    assert (found.classes, found.split) == (true.classes, "published")
    assert {p.path: p.label for p in found.pictures} == {path: label for path, (label, _) in true.pictures.items()}
    parts = {part: [p for p in found.pictures if p.part == part] for part in ("train", "val", "test")}
    assert found.pictures == (*parts["train"], *parts["val"], *parts["test"])
    assert all(p.path.startswith("val/" if p.part == "test" else "train/") for p in found.pictures)
    assert [per_class(found, part) for part in parts] == [{5}, {1}, {2}]  # one in six for validation: a fifth at most
    for held in parts["val"]:
        assert all(held.content < p.content for p in parts["train"] if p.label == held.label)
    for pictures in parts.values():
        assert pictures == sorted(pictures, key=lambda p: (p.label, p.path))


def test_a_copy_of_imagenet_is_used_as_it_is(file_server: FileServer, tmp_path: Path) -> None:
    lay("imagenet", tmp_path)
    check_imagenet(contents(tiny("imagenet", file_server), tmp_path, own_split=False))


def test_a_damaged_imagenet_archive_is_refused(file_server: FileServer, tmp_path: Path) -> None:
    lay("imagenet", tmp_path)
    where = tmp_path / "imagenet"
    next(where.glob("images/train/*/*.JPEG")).unlink()
    (where / "ILSVRC2012_img_train.tar").write_bytes(by_hand("imagenet")["ILSVRC2012_img_train.tar"][:-1000])
    with pytest.raises(MmlopError, match=r"ILSVRC2012_img_train\.tar is not the file it should be"):
        contents(tiny("imagenet", file_server), tmp_path, own_split=False)


def test_names_of_imagenets_classes_are_by_wordnet_id() -> None:
    names = public.imagenet.names_by_wnid()
    assert len(names) == 1000
    assert list(names) == sorted(names)
    assert (names["n01440764"], names["n03041632"], names["n03042490"]) == ("tench", "cleaver", "cliff dwelling")
    assert [at for at, name in enumerate(names.values()) if name in ("missile", "sunglasses")] == [657, 744, 836, 837]


def test_where_public_data_sets_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMLOP_DATA", str(tmp_path / "data"))
    assert public.home() == tmp_path / "data"
    monkeypatch.setenv("MMLOP_DATA", "~/data")
    assert public.home() == Path.home() / "data"
    for value in (None, ""):
        monkeypatch.delenv("MMLOP_DATA") if value is None else monkeypatch.setenv("MMLOP_DATA", value)
        monkeypatch.setenv("DVC_ROOT", str(tmp_path))
        assert public.home() == config.home() / ".mmlop/data" == tmp_path.resolve() / ".mmlop/data"


def test_the_documentation_is_what_the_records_say() -> None:
    page = Path(__file__).parents[2] / "docs/datasets.md"
    assert page.read_text(encoding="utf-8") == table.markdown() + "\n", "write it anew: mmlop data docs > docs/datasets.md"
