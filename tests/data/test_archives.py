"""Unpacking archives: what is wanted where it is wanted, and nothing anywhere else."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmlop.data.archives import named, unpack
from mmlop.data.download import DiskFull
from mmlop.errors import MmlopError

pytest_plugins = ["small_disk"]

Tree = dict[str, bytes]


def tar(tree: Tree, *special: tarfile.TarInfo) -> bytes:
    """A plain tar of these files, special members first."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as members:
        for info in special:
            members.addfile(info)
        for name, data in tree.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o4777
            members.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def zipped(tree: Tree, *special: tuple[zipfile.ZipInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as members:
        for info, data in special:
            members.writestr(info, data)
        for name, data in tree.items():
            members.writestr(name, data)
    return buffer.getvalue()


KINDS: dict[str, Callable[[Tree], bytes]] = {
    "zip": zipped,
    "tar": tar,
    "tar.gz": lambda tree: gzip.compress(tar(tree)),
    "tar.bz2": lambda tree: bz2.compress(tar(tree)),
    "tar.xz": lambda tree: lzma.compress(tar(tree)),
}


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def special_zip(name: str, mode: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, (mode | 0o777) << 16
    return info


def everything(path: PurePosixPath) -> PurePosixPath:
    return path


def files(folder: Path) -> Tree:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if not path.is_dir()}


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Where to put an archive; its name says nothing about its kind."""
    return tmp_path / "archive.bin"


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Where to unpack to. Whatever a test does, nothing may appear beside it."""
    (tmp_path / "in" / "here").mkdir(parents=True)
    yield tmp_path / "in" / "here" / "data"
    assert {path.name for path in tmp_path.iterdir()} <= {"in", "archive.bin", "elsewhere"}
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["here"]
    assert {path.name for path in (tmp_path / "in" / "here").iterdir()} <= {"data"}


def refuse(archive: Path, folder: Path, *words: str) -> None:
    with pytest.raises(MmlopError) as caught:
        unpack(archive, folder, everything)
    for word in (str(archive), *words):
        assert word in str(caught.value)


NAMES = st.text("abC1 ._-é", min_size=1, max_size=4).filter(lambda name: name.strip(".") and not name.startswith("._"))
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    """Files, none of which stands where another one has a folder."""
    tree = draw(st.dictionaries(PATHS, st.binary(max_size=50), max_size=8))
    return {name: data for name, data in tree.items() if not any(other.startswith(name + "/") for other in tree)}


@given(
    tree=trees(),
    wrapping=st.lists(st.sampled_from(["set-101", "data", "x"]), max_size=3).map(
        lambda parts: "".join(f"{p}/" for p in parts)
    ),
    kind=st.sampled_from(sorted(KINDS)),
    choice=st.randoms(use_true_random=False),
)
def test_exactly_what_is_wanted_whatever_is_wrapped_around(
    tree: Tree, wrapping: str, kind: str, choice: random.Random
) -> None:
    wanted = {name: data for name, data in tree.items() if choice.random() < 0.7}
    # "cat" is wanted, and so is what ends with it ("dog/cat"): such members are no part of this property
    others = {name: data for name, data in tree.items() if not any(f"/{name}".endswith(f"/{end}") for end in wanted)}
    listed = {name: data for name, data in tree.items() if name in wanted or name in others}
    with tempfile.TemporaryDirectory() as place:
        archive, folder = Path(place) / "archive", Path(place) / "folder"
        archive.write_bytes(KINDS[kind]({wrapping + name: data for name, data in listed.items()}))
        assert unpack(archive, folder, named(list(wanted))) == len(wanted)
        assert files(folder) == wanted
        assert unpack(archive, folder, named(list(wanted))) == 0
        assert files(folder) == wanted


def test_the_longest_name_wins(archive: Path, folder: Path) -> None:
    archive.write_bytes(tar({"a/Faces/1.jpg": b"faces", "b/1.jpg": b"other", "b/11.jpg": b"", "a/xFaces/2.jpg": b""}))
    assert unpack(archive, folder, named(["1.jpg", "Faces/1.jpg", "Faces/2.jpg"])) == 2
    assert files(folder) == {"Faces/1.jpg": b"faces", "1.jpg": b"other"}


def test_files_are_ordinary_ones(archive: Path, folder: Path) -> None:
    archive.write_bytes(tar({"a/b": b"text"}))
    unpack(archive, folder, everything)
    assert stat.S_IMODE((folder / "a/b").stat().st_mode) == 0o644
    assert time.time() - (folder / "a/b").stat().st_mtime < 3600


def test_what_is_there_is_left_and_what_is_cut_short_replaced(archive: Path, folder: Path) -> None:
    archive.write_bytes(tar({"whole": b"text", "short": b"text", "new": b"text"}))
    folder.mkdir()
    (folder / "whole").write_bytes(b"TEXT")
    (folder / "short").write_bytes(b"te")
    assert unpack(archive, folder, everything) == 2
    assert files(folder) == {"whole": b"TEXT", "short": b"text", "new": b"text"}


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "a/..", "/evil", "C:/evil", "c:evil", "..\\evil", "\\evil"])
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_names_that_lead_outside(archive: Path, folder: Path, name: str, kind: str) -> None:
    archive.write_bytes(KINDS[kind]({name: b"evil", "good": b""}))
    refuse(archive, folder, repr(name), "not to be trusted")
    with pytest.raises(MmlopError, match="not to be trusted"):  # wanted or not
        unpack(archive, folder, named(["good"]))
    assert files(folder) == {}


def test_windows_separators_are_separators(archive: Path, folder: Path) -> None:
    archive.write_bytes(zipped({"set\\cat\\1.jpg": b"cat", "set\\": b""}))
    assert unpack(archive, folder, named(["cat/1.jpg"])) == 1
    assert files(folder) == {"cat/1.jpg": b"cat"}


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_devices_and_pipes_in_a_tar(archive: Path, folder: Path, kind: bytes) -> None:
    archive.write_bytes(tar({"good": b""}, special("odd", kind)))
    refuse(archive, folder, "'odd'", "device or a pipe")
    assert files(folder) == {}


@pytest.mark.parametrize("mode", [stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK])
def test_devices_and_pipes_in_a_zip(archive: Path, folder: Path, mode: int) -> None:
    archive.write_bytes(zipped({"good": b""}, (special_zip("odd", mode), b"")))
    refuse(archive, folder, "'odd'", "device or a pipe")
    assert files(folder) == {}


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_links_in_a_tar(tmp_path: Path, archive: Path, folder: Path, kind: bytes) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "file").write_bytes(b"mine")
    archive.write_bytes(tar({"link/file": b"evil"}, special("link", kind, str(tmp_path / "elsewhere"))))
    refuse(archive, folder, "link is a link")
    assert files(folder) == {}
    assert unpack(archive, folder, named(["link/file"])) == 1  # the link is left out
    assert files(folder) == {"link/file": b"evil"}
    assert (tmp_path / "elsewhere" / "file").read_bytes() == b"mine"


def test_links_in_a_zip(tmp_path: Path, archive: Path, folder: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    link = special_zip("link", stat.S_IFLNK), str(tmp_path / "elsewhere").encode()
    archive.write_bytes(zipped({"link/file": b"evil"}, link))
    refuse(archive, folder, "link is a link")
    assert unpack(archive, folder, named(["link/file"])) == 1
    assert files(tmp_path / "elsewhere") == {}
    assert files(folder) == {"link/file": b"evil"}


@pytest.mark.parametrize("link", ["a", "a/b", "a/b/file"])
def test_links_that_are_there_already(tmp_path: Path, archive: Path, folder: Path, link: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "file").write_bytes(b"evil")
    (folder / link).parent.mkdir(parents=True)
    (folder / link).symlink_to(elsewhere / "file" if link.endswith("file") else elsewhere)
    archive.write_bytes(tar({"a/b/file": b"text"}))
    refuse(archive, folder, "a/b/file", f"through the link {folder / link}")
    assert files(elsewhere) == {"file": b"evil"}


def test_the_folder_itself_may_be_a_link(tmp_path: Path, archive: Path, folder: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    folder.symlink_to(tmp_path / "elsewhere")
    archive.write_bytes(tar({"a/file": b"text"}))
    assert unpack(archive, folder, everything) == 1
    assert files(tmp_path / "elsewhere") == {"a/file": b"text"}


@pytest.mark.parametrize("wanted", ["../evil", "/evil", ".", "a/../../evil", "C:evil"])
def test_a_place_outside(archive: Path, folder: Path, wanted: str) -> None:
    archive.write_bytes(tar({"good": b"text"}))
    with pytest.raises(MmlopError, match="good would be written outside"):
        unpack(archive, folder, lambda _: PurePosixPath(wanted))
    assert files(folder) == {}


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_two_members_for_one_place(archive: Path, folder: Path, kind: str) -> None:
    archive.write_bytes(KINDS[kind]({"a/cat/1.jpg": b"cat", "b/cat/1.jpg": b"cat"}))
    assert unpack(archive, folder, named(["cat/1.jpg"])) == 1
    for other in (b"dog", b"cats"):
        archive.write_bytes(KINDS[kind]({"a/cat/1.jpg": b"cat", "b/cat/1.jpg": other}))
        for _ in range(2):  # the second time the file is there already
            with pytest.raises(MmlopError, match=r"b/cat/1\.jpg is a second and different member for cat/1\.jpg"):
                unpack(archive, folder, named(["cat/1.jpg"]))
    assert files(folder) == {"cat/1.jpg": b"cat"}


def test_what_macos_adds_is_left_out(archive: Path, folder: Path) -> None:
    archive.write_bytes(zipped({"a/1.jpg": b"1", "__MACOSX/a/1.jpg": b"x", "a/._1.jpg": b"x", "__MACOSX/a/._1.jpg": b"x"}))
    assert unpack(archive, folder, everything) == 1
    assert files(folder) == {"a/1.jpg": b"1"}


@pytest.mark.parametrize("outer", sorted(KINDS))
@pytest.mark.parametrize("inner", sorted(KINDS))
def test_archives_in_an_archive(archive: Path, folder: Path, outer: str, inner: str) -> None:
    names = ["n01.tar", "n02.tar.gz", "n03.tgz", "n04.ZIP", "n05"]
    archive.write_bytes(
        KINDS[outer]({f"sets/{name}": KINDS[inner]({"img/1.jpg": name.encode()}) for name in names} | {"list.txt": b"list"})
    )
    assert unpack(archive, folder, everything, lambda path: path.parent.name == "sets") == 6
    expected: Tree = {f"sets/{name[:3]}/img/1.jpg": name.encode() for name in names}
    assert files(folder) == expected | {"list.txt": b"list"}


def test_archives_in_archives_in_an_archive(archive: Path, folder: Path) -> None:
    deep = gzip.compress(tar({"b.zip": zipped({"c.tar": tar({"1.jpg": b"deep"})}), "plain.tar": b"kept"}))
    archive.write_bytes(zipped({"a.tar.gz": deep}))
    seen: list[str] = []

    def inside(path: PurePosixPath) -> bool:
        seen.append(str(path))
        return path.name != "plain.tar" and path.suffix != ".jpg"

    assert unpack(archive, folder, everything, inside) == 2
    assert files(folder) == {"a/b/c/1.jpg": b"deep", "a/plain.tar": b"kept"}
    assert seen == ["a.tar.gz", "a/b.zip", "a/b/c.tar", "a/b/c/1.jpg", "a/plain.tar"]


def test_an_inner_archive_is_not_trusted_either(archive: Path, folder: Path) -> None:
    for inner in (tar({"../../../../evil": b""}), tar({}, special("pipe", tarfile.FIFOTYPE)), tar({"a": b"text"})[:514]):
        archive.write_bytes(zipped({"inner.tar": inner}))
        with pytest.raises(MmlopError, match=f"{archive}.*(trusted|damaged)"):
            unpack(archive, folder, everything, lambda path: path.suffix == ".tar")
        assert files(folder) == {}


TREE = {f"set/{number}.jpg": random.Random(number).randbytes(700 + 12 * number) for number in range(20)}


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_archives_that_are_cut_short(archive: Path, folder: Path, kind: str) -> None:
    whole = KINDS[kind](TREE)
    for end in [0, 1, 5, 300, 512, 1024, 1536, *random.Random(0).sample(range(len(whole.rstrip(bytes(1)))), 20)]:
        archive.write_bytes(whole[:end])
        refuse(archive, folder, "is damaged, cut short, or no zip or tar archive", "run the same command again")
        assert files(folder) == {}


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_archives_that_are_damaged(archive: Path, folder: Path, kind: str) -> None:
    whole, rng = KINDS[kind](TREE), random.Random(1)
    for _ in range(60):
        damaged = bytearray(whole)
        for _ in range(rng.choice([1, 10, 200])):
            damaged[rng.randrange(len(whole))] = rng.randrange(256)
        archive.write_bytes(damaged)
        message = ""
        try:
            unpack(archive, folder, everything)  # damage to what nobody reads, such as a date, is no harm
        except MmlopError as error:
            message = str(error)
        assert not message or str(archive) in message
        if "damaged" in message:
            assert files(folder) == {}
        elif kind != "tar":  # which has no check sums of contents
            assert files(folder).items() <= TREE.items()
            assert message or files(folder) == TREE
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    "data",
    [b"", b"<html>Sign in</html>" * 100, b"PK\x03\x04 and so on", gzip.compress(b"a file")],
    ids=["nothing", "page", "half a zip", "single file"],
)
def test_what_is_no_archive(archive: Path, folder: Path, data: bytes) -> None:
    archive.write_bytes(data)
    refuse(archive, folder, "no zip or tar archive")


def test_an_archive_that_is_not_there(archive: Path, folder: Path) -> None:
    with pytest.raises(MmlopError, match=f"{archive} cannot be read: No such file"):
        unpack(archive, folder, everything)


def patched(data: bytes, central: int, value: bytes) -> bytes:
    """A zip of one member with another value at this place of its entry in the list of members."""
    at = data.index(b"PK\x01\x02") + central
    return data[:at] + value + data[at + len(value) :]


def test_an_encrypted_zip(archive: Path, folder: Path) -> None:
    archive.write_bytes(patched(zipped({"secret.jpg": b"text"}), 8, b"\x01\x00"))
    refuse(archive, folder, "is encrypted", "secret.jpg")
    assert unpack(archive, folder, named([])) == 0


def test_an_unknown_way_of_packing(archive: Path, folder: Path) -> None:
    archive.write_bytes(patched(zipped({"file": b"text"}), 10, b"\x63\x00"))
    refuse(archive, folder, "not supported")


@pytest.mark.parametrize("declared", [10, 2_000_000])
def test_a_member_of_another_size_than_declared(archive: Path, folder: Path, declared: int) -> None:
    archive.write_bytes(patched(zipped({"bomb": bytes(1_000_000)}), 24, declared.to_bytes(4, "little")))
    refuse(archive, folder, "is damaged")
    assert files(folder) == {}


def test_a_file_where_a_folder_is_wanted(archive: Path, folder: Path) -> None:
    archive.write_bytes(tar({"a": b"", "a/b": b""}))
    with pytest.raises(MmlopError, match=f"Writing to {folder} failed"):
        unpack(archive, folder, everything)
    assert files(folder) == {"a": b""}


def test_a_disk_that_runs_full(archive: Path, small_disk: Path) -> None:
    tree = {f"{number}.jpg": bytes(300_000) for number in range(5)}
    archive.write_bytes(gzip.compress(tar(tree)))
    with pytest.raises(DiskFull, match=f"disk of {small_disk} is full.*MMLOP_DATA"):
        unpack(archive, small_disk, everything)
    assert files(small_disk).items() < tree.items()


UNPACK = """
import sys
from pathlib import Path
from mmlop.data.archives import unpack
unpack(Path(sys.argv[1]), Path(sys.argv[2]), lambda path: path)
"""


def test_a_killed_unpacking_leaves_whole_files_and_is_gone_on_with(archive: Path, folder: Path) -> None:
    tree = {f"{number % 3}/{number}.bin": random.Random(number).randbytes(100_000) for number in range(8)}
    data = tar(tree)
    os.mkfifo(archive)  # a pipe, so that the process waits in the middle of the fifth file
    process = subprocess.Popen([sys.executable, "-c", UNPACK, archive, folder])
    try:
        with archive.open("wb", buffering=0) as pipe:
            pipe.write(data[:450_000])
            end = time.monotonic() + 60
            while not ((folder / "0/3.bin").exists() and list(folder.glob(".unpacking.*"))):
                assert time.monotonic() < end
                time.sleep(0.01)
            os.kill(process.pid, signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
    finally:
        process.kill()
        process.wait()
    assert finished(folder) == dict(list(tree.items())[:4])
    archive.unlink()
    archive.write_bytes(data)
    assert unpack(archive, folder, everything) == 4
    assert finished(folder) == tree


def finished(folder: Path) -> Tree:
    return {name: data for name, data in files(folder).items() if not name.startswith(".unpacking.")}
