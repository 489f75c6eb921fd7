"""Downloads from a real server that misbehaves."""

from __future__ import annotations

import hashlib
import json
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from file_server import Fault, FileServer

from mmlop.data.download import DiskFull, Remote, download, drive, need_room, verify
from mmlop.errors import MmlopError

pytest_plugins = ["file_server", "small_disk"]

DATA = random.Random(0).randbytes(200_000)
SHA256 = "sha256:" + hashlib.sha256(DATA).hexdigest()
DOWNLOAD = """
import signal, sys
from pathlib import Path
from mmlop.data.download import Remote, download
signal.signal(signal.SIGINT, signal.default_int_handler)  # also where the tests run in the background
name, url, checksum, folder = sys.argv[1:]
download(Remote(name, (url,), checksum or None), Path(folder), timeout=10, pause=0.01)
"""


@pytest.fixture
def remote(file_server: FileServer) -> Remote:
    return Remote("set.tar", (file_server.add("set.tar", DATA),), SHA256)


@pytest.fixture
def mirrored(file_server: FileServer, remote: Remote) -> Remote:
    return replace(remote, urls=(*remote.urls, file_server.add("mirror/set.tar", DATA)))


def fetch(remote: Remote, folder: Path, *, attempts: int = 3, timeout: float = 10.0) -> bytes:
    file = download(remote, folder, attempts=attempts, timeout=timeout, pause=0.01)
    assert file == folder / remote.name
    assert files(folder) == [remote.name]
    return file.read_bytes()


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def test_a_file_is_downloaded_once(file_server: FileServer, remote: Remote, tmp_path: Path) -> None:
    assert fetch(remote, tmp_path / "new" / "folder") == DATA
    assert fetch(remote, tmp_path / "new" / "folder") == DATA
    assert file_server.requests == [("set.tar", None)]


def test_an_empty_file_and_one_of_unknown_length(file_server: FileServer, tmp_path: Path) -> None:
    assert fetch(Remote("empty", (file_server.add("empty", b""),)), tmp_path / "a") == b""
    file_server.fault("set.tar", Fault(chunked=True))
    assert fetch(Remote("set.tar", (file_server.add("set.tar", DATA),)), tmp_path / "b") == DATA


def test_a_cut_download_goes_on(file_server: FileServer, remote: Remote, tmp_path: Path) -> None:
    file_server.fault("set.tar", Fault(cut_after=120_000), times=1)
    assert fetch(remote, tmp_path) == DATA
    first, second = file_server.asked("set.tar")
    assert (first, second) == (None, "bytes=120000-")
    assert file_server.sent("set.tar") == len(DATA)


def test_cut_again_and_again(file_server: FileServer, remote: Remote, tmp_path: Path) -> None:
    file_server.fault("set.tar", Fault(cut_after=9_000), times=20)
    assert fetch(remote, tmp_path, attempts=1) == DATA  # each brings something: none counts as a failure
    assert file_server.asked("set.tar") == [None] + [f"bytes={number * 9_000}-" for number in range(1, 21)]
    assert file_server.sent("set.tar") == len(DATA)


def test_cut_without_length_or_checksum(file_server: FileServer, tmp_path: Path) -> None:
    url = file_server.add("set.tar", DATA)
    file_server.fault("set.tar", Fault(cut_after=70_000, chunked=True, validators=False), times=1)
    file_server.fault("set.tar", Fault(validators=False))
    assert fetch(Remote("set.tar", (url,)), tmp_path) == DATA
    assert file_server.asked("set.tar") == [None, "bytes=70000-"]


def test_a_trickle_of_progress_is_a_failure(file_server: FileServer, mirrored: Remote, tmp_path: Path) -> None:
    file_server.fault("set.tar", Fault(cut_after=10))
    assert fetch(mirrored, tmp_path) == DATA
    assert file_server.asked("set.tar") == [None, "bytes=10-", "bytes=20-"]
    assert file_server.asked("mirror/set.tar") == ["bytes=30-"]


def test_a_server_without_ranges_starts_again(file_server: FileServer, remote: Remote, tmp_path: Path) -> None:
    file_server.fault("set.tar", Fault(cut_after=150_000, ranges=False), times=1)
    file_server.fault("set.tar", Fault(ranges=False))
    assert fetch(remote, tmp_path) == DATA
    assert file_server.sent("set.tar") == 150_000 + len(DATA)


@pytest.mark.parametrize("checksum", [None, SHA256])
def test_a_file_that_changes_meanwhile_starts_again(file_server: FileServer, tmp_path: Path, checksum: str | None) -> None:
    url = file_server.add("set.tar", DATA)
    file_server.fault("set.tar", Fault(body=DATA[::-1], cut_after=50_000), times=1)
    assert fetch(Remote("set.tar", (url,), checksum), tmp_path) == DATA
    assert file_server.asked("set.tar") == [None, "bytes=50000-"]
    assert file_server.sent("set.tar") == 50_000 + len(DATA)


def test_a_change_that_only_the_checksum_shows(file_server: FileServer, remote: Remote, tmp_path: Path) -> None:
    file_server.fault("set.tar", Fault(body=DATA[::-1], cut_after=50_000, validators=False), times=1)
    file_server.fault("set.tar", Fault(validators=False))
    assert fetch(remote, tmp_path) == DATA
    assert file_server.asked("set.tar") == [None, "bytes=50000-", None]


@pytest.mark.parametrize("answer", ["bytes 7-9/200000", "bytes 50000-199999/300000", "nonsense"])
def test_a_piece_that_was_not_asked_for(file_server: FileServer, remote: Remote, tmp_path: Path, answer: str) -> None:
    file_server.fault("set.tar", Fault(cut_after=50_000), times=1)
    file_server.fault("set.tar", Fault(headers={"Content-Range": answer}), times=1)
    assert fetch(remote, tmp_path) == DATA
    assert file_server.asked("set.tar") == [None, "bytes=50000-", None]


def test_a_piece_of_a_file_of_unknown_length(file_server: FileServer, remote: Remote, tmp_path: Path) -> None:
    file_server.fault("set.tar", Fault(cut_after=50_000), times=1)
    piece = Fault(cut_after=60_000, headers={"Content-Range": "bytes 50000-109999/*", "Content-Length": "60000"})
    file_server.fault("set.tar", piece, times=1)
    assert fetch(replace(remote, checksum=None), tmp_path) == DATA
    assert file_server.asked("set.tar") == [None, "bytes=50000-", "bytes=110000-"]


def test_wrong_bytes(file_server: FileServer, remote: Remote, tmp_path: Path) -> None:
    file_server.fault("set.tar", Fault(body=DATA[::-1]))
    found = hashlib.sha256(DATA[::-1]).hexdigest()
    with pytest.raises(MmlopError) as caught:
        fetch(remote, tmp_path)
    for word in ("set.tar could not", remote.urls[0], found, SHA256, f"by hand to {tmp_path / 'set.tar'} and run the same"):
        assert word in str(caught.value)
    assert files(tmp_path) == []
    assert len(file_server.requests) == 1


def test_wrong_bytes_from_a_server_that_cuts_end(file_server: FileServer, remote: Remote, tmp_path: Path) -> None:
    file_server.fault("set.tar", Fault(body=DATA[::-1], cut_after=120_000, validators=False))
    with pytest.raises(MmlopError, match="not the file that is expected"):
        fetch(remote, tmp_path)
    assert len(file_server.requests) == 4  # two pieces, and once more as they might not have fitted


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Fault(status=404), "HTTP status 404"),
        (Fault(status=403), "HTTP status 403"),
        (Fault(body=DATA[::-1]), "not the file that is expected"),
        (Fault(body=b"<html>Quota exceeded</html>", headers={"Content-Type": "text/html; charset=utf-8"}), "a web page"),
        (Fault(status=302, headers={"Location": "/set.tar"}), "the address leads nowhere"),
    ],
)
def test_what_an_address_refuses_comes_from_the_next(
    file_server: FileServer, remote: Remote, mirrored: Remote, tmp_path: Path, fault: Fault, reason: str
) -> None:
    file_server.fault("set.tar", fault)
    started = time.monotonic()
    assert download(mirrored, tmp_path, pause=60).read_bytes() == DATA
    with pytest.raises(MmlopError, match=f"{reason}.*same command again"):
        download(remote, tmp_path / "other", pause=60)
    assert time.monotonic() - started < 30
    assert file_server.asked("mirror/set.tar") == [None]


@pytest.mark.parametrize("status", [503, 500, 429, 408])
def test_a_busy_server_is_asked_again(file_server: FileServer, remote: Remote, tmp_path: Path, status: int) -> None:
    file_server.fault("set.tar", Fault(status=status), times=3)
    started = time.monotonic()
    assert download(remote, tmp_path, attempts=4, pause=0.05).read_bytes() == DATA
    assert time.monotonic() - started > 0.05 + 0.1 + 0.2
    assert len(file_server.requests) == 4


def test_a_server_that_stays_busy_and_one_that_is_not_there(file_server: FileServer, tmp_path: Path) -> None:
    with FileServer().running() as other:
        gone = other.url("set.tar")
    file_server.fault("set.tar", Fault(status=503))
    with pytest.raises(MmlopError) as caught:
        fetch(Remote("set.tar", (file_server.url("set.tar"), gone)), tmp_path, attempts=2)
    assert f"{file_server.url('set.tar')}: HTTP status 503 Service Unavailable, 2 times" in str(caught.value)
    assert f"{gone}: no connection, 2 times" in str(caught.value)


@pytest.fixture
def refusing() -> Iterator[str]:
    """Host and port where nobody listens: the port is bound, so that nobody else gets it meanwhile."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"


@pytest.mark.parametrize("proxy", [False, True])
def test_without_a_network_the_error_comes_soon_and_each_step_is_told(
    proxy: bool, refusing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    host, reason = refusing, "no connection"
    if proxy:
        monkeypatch.setenv("http_proxy", f"http://{refusing}")
        host, reason = "pictures.example", "no connection through the proxy that the environment names"
    urls = tuple(f"http://{host}/{name}" for name in ("a", "b", "c"))
    started = time.monotonic()
    with caplog.at_level("INFO"), pytest.raises(MmlopError) as caught:
        download(Remote("set.tar", urls), tmp_path)
    assert time.monotonic() - started < 10
    assert all(f"{url}: {reason}, 2 times" in str(caught.value) for url in urls)
    steps = [f"asking {host}", f"{reason}, once more in 1 s", f"{reason}, 2 times, so it is given up there"]
    assert [record.getMessage() for record in caplog.records] == [f"set.tar: {step}" for step in steps] * 3


def test_a_host_of_no_such_name(file_server: FileServer, remote: Remote, tmp_path: Path) -> None:
    remote = replace(remote, urls=("http://nobody.invalid/set.tar", *remote.urls))
    assert fetch(remote, tmp_path, attempts=50) == DATA


def answer_once(listener: socket.socket, head: str, body: bytes) -> None:
    """Answer one request, and leave."""
    listener.settimeout(10)
    with listener:
        connection, _ = listener.accept()
    with connection:
        connection.settimeout(10)
        connection.recv(10_000)
        connection.sendall(head.encode() + b"\r\nConnection: close\r\n\r\n" + body)


def test_a_network_that_is_gone_in_mid_download_is_waited_for(tmp_path: Path) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()

    def serve() -> None:
        answer_once(listener, f'HTTP/1.1 200 OK\r\nContent-Length: {len(DATA)}\r\nETag: "1"', DATA[:90_000])
        time.sleep(1)
        rest = f"Content-Range: bytes 90000-{len(DATA) - 1}/{len(DATA)}"
        answer_once(
            socket.create_server(address),
            f'HTTP/1.1 206 Partial Content\r\nContent-Length: {len(DATA) - 90_000}\r\n{rest}\r\nETag: "1"',
            DATA[90_000:],
        )

    server = threading.Thread(target=serve, daemon=True)
    server.start()
    remote = Remote("set.tar", (f"http://127.0.0.1:{address[1]}/set.tar",))
    file = download(remote, tmp_path, attempts=6, timeout=10, pause=0.2)  # 0.2, 0.2, 0.4, 0.8 s: the fifth time it is there
    server.join()
    assert file.read_bytes() == DATA


def test_a_server_that_hangs_up_is_asked_again(tmp_path: Path) -> None:
    """It was there, so that it is not given up as soon as one that is not."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(10)
    asked = []

    def serve() -> None:
        with listener:
            for _ in range(4):
                connection, _ = listener.accept()
                asked.append(connection.recv(10_000))
                connection.close()

    server = threading.Thread(target=serve, daemon=True)
    server.start()
    with pytest.raises(MmlopError, match="no connection, 4 times"):
        fetch(Remote("set.tar", (f"http://127.0.0.1:{listener.getsockname()[1]}/set.tar",)), tmp_path, attempts=4)
    server.join()
    assert len(asked) == 4


def test_a_slow_drip_is_a_cut(file_server: FileServer, mirrored: Remote, tmp_path: Path) -> None:
    file_server.fault("set.tar", Fault(pace=100))  # never silent for as long as the time-out
    assert fetch(mirrored, tmp_path, attempts=1, timeout=1.0) == DATA
    assert len(file_server.asked("mirror/set.tar")) == 1
    file_server.fault("mirror/set.tar", Fault(pace=100))
    with pytest.raises(MmlopError, match=r"less than 1 KiB in 1 seconds, 1 times.*less than 1 KiB"):
        fetch(mirrored, tmp_path / "other", attempts=1, timeout=1.0)


def test_a_silent_server_is_a_cut(file_server: FileServer, mirrored: Remote, tmp_path: Path) -> None:
    file_server.fault("set.tar", Fault(pace=1))
    assert fetch(mirrored, tmp_path, attempts=2, timeout=0.5) == DATA


def test_a_web_page_may_be_what_is_wanted(file_server: FileServer, tmp_path: Path) -> None:
    url = file_server.add("list.html", b"<html></html>")
    file_server.fault("list.html", Fault(headers={"Content-Type": "text/html"}))
    assert fetch(Remote("list.html", (url,)), tmp_path) == b"<html></html>"


def test_bytes_stay_as_they_are_sent(file_server: FileServer, tmp_path: Path) -> None:
    url = file_server.add("set.tar.gz", DATA)
    file_server.fault("set.tar.gz", Fault(headers={"Content-Encoding": "gzip"}))  # as some servers say of any .gz
    assert fetch(Remote("set.tar.gz", (url,), SHA256), tmp_path) == DATA


def start(remote: Remote, folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", DOWNLOAD, remote.name, remote.urls[0], remote.checksum or "", str(folder)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize(("kill", "checksum"), [(signal.SIGKILL, None), (signal.SIGINT, None), (signal.SIGKILL, SHA256)])
def test_a_later_process_goes_on(
    file_server: FileServer, remote: Remote, tmp_path: Path, kill: signal.Signals, checksum: str | None
) -> None:
    remote, part = replace(remote, checksum=checksum), tmp_path / "set.tar.part"
    file_server.fault("set.tar", Fault(pace=40_000), times=1)
    process = start(remote, tmp_path)
    wait_for(lambda: part.exists() and part.stat().st_size > 20_000)
    process.send_signal(kill)
    process.communicate()
    assert process.returncode != 0
    there = part.stat().st_size
    assert 20_000 < there < len(DATA)
    assert fetch(remote, tmp_path) == DATA
    assert file_server.asked("set.tar") == [None, f"bytes={there}-"]


def test_a_part_of_the_mirror_goes_on_at_the_mirror(file_server: FileServer, mirrored: Remote, tmp_path: Path) -> None:
    file_server.fault("set.tar", Fault(status=404), times=1)
    file_server.fault("mirror/set.tar", Fault(cut_after=90_000), times=1)
    file_server.fault("mirror/set.tar", Fault(status=503), times=2)
    mirrored = replace(mirrored, checksum=None)
    with pytest.raises(MmlopError, match="HTTP status 503"):
        fetch(mirrored, tmp_path, attempts=2)
    assert fetch(mirrored, tmp_path) == DATA
    assert file_server.asked("mirror/set.tar")[-1] == "bytes=90000-"
    assert file_server.asked("set.tar") == [None]


def test_another_address_goes_on_only_where_a_checksum_can_tell(
    file_server: FileServer, mirrored: Remote, tmp_path: Path
) -> None:
    for folder, checksum, asked in (("a", SHA256, "bytes=90000-"), ("b", None, None)):
        file_server.fault("set.tar", Fault(cut_after=90_000), times=1)
        file_server.fault("set.tar", Fault(status=404), times=1)
        assert fetch(replace(mirrored, checksum=checksum), tmp_path / folder) == DATA
        assert file_server.asked("mirror/set.tar")[-1] == asked


@pytest.mark.parametrize("left", [b"rubbish", DATA[:1000], DATA, DATA + b"too much", b"x" * len(DATA)])
def test_a_part_of_unknown_origin(remote: Remote, tmp_path: Path, left: bytes) -> None:
    (tmp_path / "set.tar.part").write_bytes(left)
    assert fetch(remote, tmp_path) == DATA


def test_a_damaged_note_beside_the_part(file_server: FileServer, remote: Remote, tmp_path: Path) -> None:
    for note in ("", "[]", '{"url": 3}', json.dumps({"url": remote.urls[0], "validator": '"old"', "total": 7})):
        (tmp_path / "set.tar.part").write_bytes(b"rubbish")
        (tmp_path / "set.tar.part.json").write_text(note)
        assert fetch(remote, tmp_path) == DATA
        (tmp_path / "set.tar").unlink()


def test_a_file_that_the_user_put_there(file_server: FileServer, remote: Remote, tmp_path: Path) -> None:
    (tmp_path / "set.tar").write_bytes(DATA)
    assert fetch(remote, tmp_path) == DATA
    (tmp_path / "set.tar").write_bytes(b"mine")
    with pytest.raises(MmlopError, match=r"set\.tar is not the file it should be.*instead of sha256:.*remove it and run"):
        fetch(remote, tmp_path)
    assert (tmp_path / "set.tar").read_bytes() == b"mine"
    assert file_server.requests == []


def test_two_processes_download_once(file_server: FileServer, remote: Remote, tmp_path: Path) -> None:
    file_server.fault("set.tar", Fault(pace=200_000), times=1)
    processes = [start(remote, tmp_path), start(remote, tmp_path)]
    for process in processes:
        _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (0, "")  # and no progress bar where there is no terminal
    assert (tmp_path / "set.tar").read_bytes() == DATA
    assert file_server.requests == [("set.tar", None)]


def test_a_disk_that_runs_full(file_server: FileServer, small_disk: Path) -> None:
    data = random.Random(1).randbytes(900_000)
    remote = Remote("set.tar", (file_server.add("set.tar", data),))
    file_server.fault("set.tar", Fault(chunked=True), times=1)  # the size is not known beforehand
    other = small_disk / "other"
    other.write_bytes(bytes(400_000))
    with pytest.raises(DiskFull, match=rf"disk of {small_disk} is full: make room.*goes on.*MMLOP_DATA"):
        fetch(remote, small_disk)
    there = (small_disk / "set.tar.part").stat().st_size
    assert there > 500_000
    other.unlink()
    assert fetch(remote, small_disk) == data
    assert file_server.asked("set.tar") == [None, f"bytes={there}-"]


def test_a_disk_that_is_too_small(file_server: FileServer, remote: Remote, small_disk: Path) -> None:
    (small_disk / "other").write_bytes(bytes(900_000))
    with pytest.raises(DiskFull, match=r"set\.tar needs 200 kB, and only \d+ kB are free at .*MMLOP_DATA"):
        fetch(remote, small_disk)  # the server says how much it is
    assert len(file_server.requests) == 1
    with pytest.raises(MmlopError, match=r"set\.tar needs 250 kB"):
        fetch(replace(remote, size=250_000), small_disk / "new")
    assert len(file_server.requests) == 1


def test_need_room(tmp_path: Path) -> None:
    need_room(tmp_path / "not" / "there", 1, "the set")
    with pytest.raises(MmlopError) as caught:
        need_room(tmp_path / "not" / "there", 10**18, "the set")
    assert str(caught.value).startswith("the set needs 1e+06 TB, and only ")
    assert f"are free at {tmp_path}: make room there, or set MMLOP_DATA to" in str(caught.value)


def test_a_folder_that_cannot_be_written(remote: Remote, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MmlopError, match=r"Writing to .*file failed \(File exists\).*MMLOP_DATA"):
        fetch(remote, tmp_path / "file")


@pytest.mark.parametrize(
    "checksum", ["git:ce013625030ba8dba906f756967f9e9ca394464a", "md5:B1946AC92492D2347C6235B4D2611184"]
)
def test_kinds_of_checksum(tmp_path: Path, checksum: str) -> None:
    file = tmp_path / "hello"
    file.write_bytes(b"hello\n")
    verify(Remote("hello", (), checksum), file)
    file.write_bytes(b"hallo\n")
    with pytest.raises(MmlopError, match=f"{file} is not the file it should be: .* instead of {checksum}"):
        verify(Remote("hello", (), checksum), file)
    with pytest.raises(MmlopError, match="missing"):
        verify(Remote("hello", (), checksum), tmp_path)


def test_drive() -> None:
    assert drive("1a_B-c") == ("https://drive.usercontent.google.com/download?id=1a_B-c&export=download&confirm=t")
