"""The prediction log: what is added is read back, whatever happens to the writer or the disk in between."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Barrier, Thread

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmlop import prediction_files, prediction_log
from mmlop.errors import MmlopError
from mmlop.prediction_log import PredictionLog, read

pytest_plugins = ["small_disk"]

FEATURES = np.random.default_rng(0).standard_normal((300, 16)).astype(np.float32)
FEATURES /= np.linalg.norm(FEATURES, axis=1, keepdims=True)


def add(log: PredictionLog, features: np.ndarray, name: str = "pets", identity: str = "i1", **more: object) -> None:
    log.add(name, identity, features, ["cat", "dog"], [0.75, 0.25], **more)  # type: ignore[arg-type]


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


@settings(max_examples=20, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b@champion", "b/3"]),
            st.sampled_from(["i1", "i2"]),
            st.lists(st.text(max_size=5), min_size=1, max_size=3),
            st.floats(0, 1, width=32),
            st.none() | st.lists(st.text(max_size=5), max_size=3),
        ),
        max_size=30,
    )
)
def test_what_is_added_is_read_back_in_order(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple]) -> None:
    folder = tmp_path_factory.mktemp("log")
    with PredictionLog(folder) as log:
        for (name, identity, labels, score, candidates), features in zip(rows, FEATURES, strict=False):
            log.add(name, identity, features, labels, [score] * len(labels), candidates)
    for name, identity in ((None, None), ("a", None), (None, "i2"), ("b/3", "i1")):
        wanted = [
            (labels[0], score, candidates is None, number)
            for number, (given, of, labels, score, candidates) in enumerate(rows)
            if name in (None, given) and identity in (None, of)
        ]
        found = read(folder, name, identity=identity)
        assert (len(found), found.total) == (len(wanted), len(wanted))
        assert list(found.labels) == [one[0] for one in wanted]
        np.testing.assert_array_equal(found.confidence, [one[1] for one in wanted])
        assert found.own.tolist() == [one[2] for one in wanted]
        if wanted:
            np.testing.assert_allclose(found.features, FEATURES[[one[3] for one in wanted]], atol=3e-4)
        assert (np.diff(found.times.astype(int)) >= 0).all()


def test_rows_can_be_read_while_the_log_is_open_and_by_their_time(tmp_path: Path) -> None:
    with PredictionLog(tmp_path) as log:
        add(log, FEATURES[0])
        deadline = time.monotonic() + 10
        while not len(read(tmp_path)) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert len(read(tmp_path)) == 1
        between = datetime.now(UTC)
        add(log, FEATURES[1])
        add(log, FEATURES[2])
    assert len(read(tmp_path, since=between)) == 2
    assert len(read(tmp_path, since=timedelta(hours=1))) == 3
    assert len(read(tmp_path, since=datetime.now(UTC))) == 0
    assert len(files(tmp_path)) == 1


def test_of_many_rows_evenly_spaced_ones_are_read(tmp_path: Path) -> None:
    with PredictionLog(tmp_path) as log:
        for number in range(1000):
            log.add("a", "i", FEATURES[0], [str(number)], [0.5])
    found = read(tmp_path, most=300)
    assert (found.labels, found.total) == (tuple(map(str, range(0, 1000, 4))), 1000)
    assert len(read(tmp_path, most=1000)) == 1000


def test_many_threads_lose_nothing(tmp_path: Path) -> None:
    log, start = PredictionLog(tmp_path), Barrier(8)

    def work(number: int) -> None:
        start.wait()
        for features in FEATURES[:200]:
            add(log, features, str(number))

    threads = [Thread(target=work, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    assert log.dropped == 0
    for number in range(8):
        np.testing.assert_allclose(read(tmp_path, str(number)).features, FEATURES[:200], atol=3e-4)


def test_pictures_are_kept_only_if_asked(tmp_path: Path) -> None:
    for pictures in (False, True):
        folder = tmp_path / str(pictures)
        with PredictionLog(folder, pictures) as log:
            add(log, FEATURES[0], picture=b"the picture's bytes")
        with pa.memory_map(str(files(folder)[0])) as mapped:
            kept = pa.ipc.open_stream(mapped).read_all()["picture"].to_pylist()
        assert kept == ([b"the picture's bytes"] if pictures else [None])
        assert len(read(folder)) == 1


def test_a_killed_process_loses_its_last_seconds_at_most(tmp_path: Path) -> None:
    code = f"""
        import numpy as np, time
        from mmlop.prediction_log import PredictionLog
        log = PredictionLog({str(tmp_path)!r})
        for number in range(10**9):
            log.add("a", "i", np.zeros(512, np.float32), [str(number)], [0.5])
            print(number, flush=True)
            time.sleep(0.001)
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        when = {}
        for line in process.stdout:
            when[int(line)] = time.monotonic()
            if len(when) > 5000:
                break
    finally:
        process.send_signal(signal.SIGKILL)
        killed = time.monotonic()
        process.communicate()
    found = [int(label) for label in read(tmp_path).labels]
    assert found == list(range(len(found)))
    assert killed - when[len(found)] < prediction_log.EVERY + 1  # of the first that was lost


def test_a_batch_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    with PredictionLog(tmp_path) as log:
        for number, features in enumerate(FEATURES):
            add(log, features)
            if number % 50 == 0:
                log.flush()
    (file,) = files(tmp_path)
    content, before = file.read_bytes(), len(read(tmp_path))
    seen = set()
    for size in (*range(0, len(content), len(content) // 40), 1, 7, 9):
        file.write_bytes(content[:size])
        found = read(tmp_path)
        np.testing.assert_allclose(found.features, FEATURES[: len(found)].reshape(found.features.shape), atol=3e-4)
        seen.add(len(found))
    assert before == len(FEATURES)
    assert len(seen) > 2
    assert before not in seen


def test_files_are_changed_and_the_oldest_go(tmp_path: Path) -> None:
    with PredictionLog(tmp_path, limit=400_000) as log:
        for _ in range(200):
            for features in np.random.default_rng().standard_normal((20, 512)):
                add(log, features)
            log.flush()
            assert sum(file.stat().st_size for file in files(tmp_path)) < 400_000
    assert 4 <= len(files(tmp_path)) <= 9
    newest = read(tmp_path)
    assert 200 < len(newest) < 500
    old = time.time() - 86400 * 31
    before = files(tmp_path)
    os.utime(before[0], (old, old))
    other = tmp_path / "notes.txt"
    other.touch()
    os.utime(other, (old, old))
    with PredictionLog(tmp_path, days=30) as log:
        add(log, FEATURES[0])
    assert before[0] not in files(tmp_path)
    assert {*before[1:], other} < set(files(tmp_path))


def test_a_file_that_was_removed_is_begun_anew(tmp_path: Path) -> None:
    with PredictionLog(tmp_path) as log:
        add(log, FEATURES[0])
        log.flush()
        files(tmp_path)[0].unlink()
        add(log, FEATURES[1])
    np.testing.assert_allclose(read(tmp_path).features, FEATURES[1:2], atol=3e-4)


def test_a_file_that_another_service_removes_in_between_costs_nothing(tmp_path: Path) -> None:
    (tmp_path / "predictions-0.arrows").symlink_to(tmp_path / "gone")  # there to be listed, and not to be looked at
    with PredictionLog(tmp_path) as log:
        add(log, np.zeros(4))
        log.flush()
        assert log.dropped == 0
        assert len(files(tmp_path)) == 2


def test_a_full_disk_costs_rows_and_nothing_else(small_disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    rows = np.random.default_rng(0).standard_normal((100, 512))
    with PredictionLog(small_disk) as log:
        for _ in range(20):
            for row in rows:
                add(log, row)
            log.flush()
        assert 0 < log.dropped < 2000
        assert len(read(small_disk)) + log.dropped == 2000
        assert len(files(small_disk)) <= 2
        assert "were not logged" in caplog.text
        for file in files(small_disk):  # somebody makes room
            file.unlink()
        add(log, rows[0])
    assert len(read(small_disk)) == 1


def test_a_disk_that_does_not_answer_costs_rows_and_no_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction_log, "BUFFER", 200_000)
    with PredictionLog(tmp_path, pictures=True) as log:
        with log._writing:  # as while a batch is on its way
            started = time.monotonic()
            for _ in range(100):
                add(log, FEATURES[0], picture=bytes(10_000))
            assert time.monotonic() - started < 1
            assert 80 <= log.dropped <= 85
        log.flush()
        add(log, FEATURES[0], picture=bytes(10_000))
    assert len(read(tmp_path)) + log.dropped == 101


def test_several_services_may_log_to_one_folder(tmp_path: Path) -> None:
    with PredictionLog(tmp_path) as one, PredictionLog(tmp_path) as other:
        for number in range(10):
            (one, other)[number % 2].add("a", "i", FEATURES[0], [str(number)], [0.5])
            time.sleep(0.001)
    assert read(tmp_path).labels == tuple(map(str, range(10)))


def test_mistakes_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(MmlopError, match="There is no prediction log at"):
        read(tmp_path / "none")
    (tmp_path / "file").touch()
    with pytest.raises(MmlopError, match="cannot be logged to"):
        PredictionLog(tmp_path / "file" / "below")
    with PredictionLog(tmp_path) as log:
        add(log, FEATURES[0])
        add(log, FEATURES[0][:8])
    with pytest.raises(MmlopError, match=r"features of lengths \[8, 16\]"):
        read(tmp_path)
    log.add("a", "i", FEATURES[0], ["x"], [1.0])  # a request that ends after the service
    assert log.dropped == 1


def test_candidates_are_told_apart_by_their_hash() -> None:
    assert prediction_files.hashed(["a", "b"]) == prediction_files.hashed(("a", "b"))
    assert len({prediction_files.hashed(names) for names in (["a", "b"], ["b", "a"], ["ab"], ["a"], [])}) == 5
