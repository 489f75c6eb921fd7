"""Remembered content hashes: always those of the files as they are, whatever became of files and database."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import tempfile
import time
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmlop.data import hashes
from mmlop.data.manifest import content_of
from mmlop.errors import MmlopError

pytest_plugins = ["small_disk"]

NAMES = ("a.jpg", "b/ü.jpg", "c.jpg")
TICK = 0.05  # seconds, several of a file system's
CHANGES = st.sampled_from(["write", "write and set the time back", "swap", "touch", "nothing", "break the database"])


def fill(folder: Path) -> Path:
    for name in NAMES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    time.sleep(2 * TICK)
    return folder


def of(folder: Path, database: Path | None = None) -> list[str]:
    return hashes.of(folder, NAMES, database or folder / "hashes.sqlite", settled=TICK)


def afresh(folder: Path) -> list[str]:
    return [content_of((folder / name).read_bytes()) for name in NAMES]


def falsify(database: Path) -> None:
    """Hashes that nothing but the database can have."""
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE files SET content = 'of ' || path")


def rows(database: Path) -> int:
    with closing(sqlite3.connect(database)) as connection:
        return int(connection.execute("SELECT count(*) FROM files").fetchone()[0])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return fill(tmp_path / "pictures")


def change(folder: Path, name: str, how: str, content: bytes) -> None:
    file, other = folder / name, folder / NAMES[0]
    before = file.stat()
    if how.startswith("write"):
        file.write_bytes(content)
    if how == "write and set the time back":  # as `cp -p` and `rsync -t` do
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    if how == "swap" and file != other:
        file.rename(folder / "aside")
        other.rename(file)
        (folder / "aside").rename(other)
    if how == "touch":
        os.utime(file, (1e9, 1e9))
    if how == "break the database":
        (folder / "hashes.sqlite").write_bytes(content * 400)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(NAMES), CHANGES, st.binary(min_size=4, max_size=6), st.booleans()), max_size=6))
def test_they_are_those_of_the_files_as_they_are(changes: list[tuple[str, str, bytes, bool]]) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = fill(Path(temporary))
        assert of(folder) == afresh(folder)
        for name, how, content, wait in changes:
            change(folder, name, how, content)
            if wait:  # else within the same tick perhaps
                time.sleep(2 * TICK)
            assert of(folder) == afresh(folder), how


def test_files_that_did_not_change_are_not_read_again(folder: Path) -> None:
    expected = of(folder)
    falsify(folder / "hashes.sqlite")
    assert of(folder) == [f"of {name}" for name in NAMES]
    (folder / NAMES[1]).write_bytes((folder / NAMES[1]).read_bytes())
    assert of(folder) == ["of a.jpg", expected[1], "of c.jpg"]
    time.sleep(2 * TICK)
    assert of(folder) == ["of a.jpg", expected[1], "of c.jpg"]
    os.utime(folder / NAMES[0])
    assert of(folder)[0] == expected[0]


def test_a_file_that_may_still_be_changing_is_not_remembered(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"a")
    assert hashes.of(tmp_path, ["a.jpg"], tmp_path / "hashes.sqlite") == [content_of(b"a")]
    assert rows(tmp_path / "hashes.sqlite") == 0


def test_more_files_than_one_batch(tmp_path: Path) -> None:
    count = hashes.BATCH + 5
    names = [f"{number:05d}" for number in range(count)]
    for name in names:
        (tmp_path / name).write_text(name)
    time.sleep(2 * TICK)
    database = tmp_path / "hashes.sqlite"
    for _ in range(2):
        assert hashes.of(tmp_path, names, database, settled=TICK) == [content_of(name.encode()) for name in names]
        assert rows(database) == count
    assert hashes.of(tmp_path, [], database) == []


@pytest.mark.parametrize("damage", ["rubbish", "half", "empty", "another table"])
def test_a_damaged_database_is_made_anew(folder: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    expected, database = of(folder), folder / "hashes.sqlite"
    data = database.read_bytes()
    database.write_bytes({"rubbish": b"rubbish" * 1000, "half": data[:4096], "empty": b""}.get(damage, data))
    if damage == "another table":
        with closing(sqlite3.connect(database)) as connection, connection:
            connection.execute("DROP TABLE files")
    assert of(folder) == expected
    warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warned) == (damage in ("rubbish", "half"))
    assert all(f"{database} is damaged (" in text and text.endswith(": it is made anew") for text in warned)
    assert of(folder) == expected
    assert rows(database) == len(NAMES)


def test_another_process_at_the_database(folder: Path) -> None:
    expected, database = of(folder), folder / "hashes.sqlite"
    falsify(database)
    (folder / NAMES[0]).write_bytes(b"new")
    time.sleep(2 * TICK)
    with closing(sqlite3.connect(database)) as other:
        other.execute("BEGIN IMMEDIATE")  # it can be read, not written
        assert of(folder) == [content_of(b"new"), f"of {NAMES[1]}", f"of {NAMES[2]}"]
        other.rollback()
        other.execute("BEGIN EXCLUSIVE")  # nor read
        assert of(folder) == [content_of(b"new"), *expected[1:]]


def test_a_folder_that_is_read_only(folder: Path, small_disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    known, unknown = small_disk / "hashes.sqlite", small_disk / "others.sqlite"
    expected = of(folder, known)
    falsify(known)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    assert of(folder, known) == [f"of {name}" for name in NAMES]
    (folder / NAMES[0]).write_bytes(b"new")
    time.sleep(2 * TICK)
    assert of(folder, known) == [content_of(b"new"), f"of {NAMES[1]}", f"of {NAMES[2]}"]
    assert of(folder, unknown) == [content_of(b"new"), *expected[1:]]
    assert not unknown.exists()
    assert of(folder, folder / "nowhere" / "hashes.sqlite") == afresh(folder)
    assert caplog.records == []


def test_a_full_disk(folder: Path, small_disk: Path) -> None:
    (small_disk / "other").write_bytes(bytes(1 << 20))
    assert of(folder, small_disk / "hashes.sqlite") == afresh(folder)


def test_a_file_that_cannot_be_read_is_named(folder: Path) -> None:
    with pytest.raises(MmlopError, match=r"nowhere\.jpg cannot be read \(No such file or directory\): replace it"):
        hashes.of(folder, [NAMES[0], "nowhere.jpg"], folder / "hashes.sqlite")
    with pytest.raises(MmlopError, match=r"b cannot be read \(Is a directory\)"):
        hashes.of(folder, ["b"], folder / "hashes.sqlite")
