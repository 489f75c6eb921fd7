"""Files appear whole or not at all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmlop.errors import MmlopError, listing
from mmlop.files import YOUNG, NoRoom, dump_json, replacing, write_json, write_text

pytest_plugins = ["small_disk"]
ROOT = Path(__file__).parents[1]


class Interrupted(Exception):
    pass


def interrupted(path: Path, write: Callable[[Path], object]) -> None:
    with replacing(path) as beside:
        write(beside)
        raise Interrupted


def test_a_file_is_written_in_a_new_folder(tmp_path: Path) -> None:
    write_text(tmp_path / "a" / "b" / "note.txt", "grüezi\n")
    assert (tmp_path / "a" / "b" / "note.txt").read_bytes() == "grüezi\n".encode()
    assert [file.name for file in (tmp_path / "a" / "b").iterdir()] == ["note.txt"]


def test_a_file_is_replaced(tmp_path: Path) -> None:
    file = tmp_path / "note.txt"
    write_text(file, "old")
    with replacing(file) as beside:
        beside.write_text("new")
        assert file.read_text() == "old"  # until the block ends
        assert beside.parent.parent == tmp_path  # the same file system, so that the rename is whole
    assert file.read_text() == "new"
    assert list(tmp_path.iterdir()) == [file]


def test_an_exception_keeps_the_old_file_and_leaves_no_litter(tmp_path: Path) -> None:
    file = tmp_path / "note.txt"
    write_text(file, "old")
    with pytest.raises(Interrupted):
        interrupted(file, lambda beside: beside.write_text("half of the ne"))
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_an_exception_where_nothing_was_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        interrupted(tmp_path / "folder", lambda beside: write_text(beside / "one", "1"))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    for names in (["one", "two"], ["three"]):
        with replacing(folder) as beside:
            beside.mkdir()
            for name in names:
                (beside / name).write_text(name)
    assert [file.name for file in folder.iterdir()] == ["three"]
    assert list(tmp_path.iterdir()) == [folder]


def test_an_exception_keeps_the_old_folder(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "one").write_text("1")
    with pytest.raises(Interrupted):
        interrupted(folder, lambda beside: beside.mkdir())
    assert [file.name for file in folder.iterdir()] == ["one"]
    assert list(tmp_path.iterdir()) == [folder]


def test_a_folder_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "one").write_text("1")
    with pytest.raises(OSError):
        write_text(folder, "text")
    assert [file.name for file in folder.iterdir()] == ["one"]
    assert list(tmp_path.iterdir()) == [folder]


def test_a_block_that_writes_nothing_keeps_the_old(tmp_path: Path) -> None:
    for old in (tmp_path / "file", tmp_path / "folder"):
        write_text(old if old.name == "file" else old / "inside", "old")
        with pytest.raises(FileNotFoundError), replacing(old):
            pass
        assert old.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_a_full_disk_keeps_the_old_file_and_is_one_sentence(small_disk: Path) -> None:
    file = small_disk / "note.txt"
    write_text(file, "old")
    with pytest.raises(NoRoom) as caught:
        write_text(file, "new" * 500_000)
    assert str(caught.value) == f"There is no room on the disk to write {file}: make some, and run the same command again."
    assert isinstance(caught.value, MmlopError)
    assert file.read_text() == "old"
    assert list(small_disk.iterdir()) == [file]


def test_a_full_disk_within_a_folder_names_the_folder(small_disk: Path) -> None:
    with pytest.raises(NoRoom, match=f"to write {small_disk}/folder:"), replacing(small_disk / "folder") as beside:
        write_text(beside / "note.txt", "new" * 500_000)
    assert list(small_disk.iterdir()) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from mmlop.files import replacing
with replacing(Path(sys.argv[1])) as beside:
    beside.write_text("half of the ne")
    os.kill(os.getpid(), getattr(signal, sys.argv[2]))
"""


def left_by(signal: str, file: Path) -> tuple[subprocess.Popen[bytes], Path]:
    """A process that was stopped or killed while it wrote ``file``, some time ago, and its folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(file), signal], env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    os.waitpid(process.pid, os.WUNTRACED)
    (holder,) = [other for other in file.parent.iterdir() if other != file]
    os.utime(holder, (0, os.stat(holder).st_mtime - 2 * YOUNG))
    return process, holder


def test_what_a_kill_left_is_removed_by_the_next_writer(tmp_path: Path) -> None:
    file = tmp_path / "note.txt"
    write_text(file, "old")
    left_by("SIGKILL", file)
    assert file.read_text() == "old"
    write_text(file, "new")
    assert list(tmp_path.iterdir()) == [file]


def test_what_another_process_is_writing_stays(tmp_path: Path) -> None:
    file = tmp_path / "note.txt"
    process, holder = left_by("SIGSTOP", file)
    write_text(file, "new")
    assert set(tmp_path.iterdir()) == {file, holder}
    process.kill()
    process.wait()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.text(max_size=5), json_values, max_size=5))
def test_json_is_the_same_bytes_for_the_same_value(value: dict[str, object]) -> None:
    text = dump_json(value)
    assert json.loads(text) == value
    assert dump_json(dict(reversed(value.items()))) == text
    assert text.endswith("\n")


def test_json_without_numbers_keeps_the_old_file(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": 1})
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", {"a": float("nan")})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": 1}
    assert len(list(tmp_path.iterdir())) == 1


def test_listing_names_the_nearest_first_and_everything_once() -> None:
    assert listing(["cat", "dog", "horse"], "hrose") == "horse, cat, dog"
    assert listing(["cat", "dog"]) == "cat, dog"
    assert listing([], "x") == ""
