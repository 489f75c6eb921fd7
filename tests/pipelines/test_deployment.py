"""What `mmlop deploy` makes of params.yaml and prefect.yaml, short of a server."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from clone import ROOT
from said import Run, error

from mmlop import config, schedules
from mmlop.config import Params
from mmlop.errors import MmlopError
from mmlop.schedules import Retrain
from pipelines import deployment, turns

pytest_plugins = ["cli_fixtures"]


def params(**retrain: object) -> Params:
    ours = config.load(ROOT / "params.yaml")
    return ours.model_copy(update={"retrain": Retrain.model_validate(retrain), "datasets": ("mini_digits", "mini_pairs")})


def test_every_data_set_has_a_deployment_of_the_pattern() -> None:
    found = deployment.deployments(
        ROOT, params(schedule="0 3 * * *", schedules={"mini_pairs": "6h"}, timezone="Asia/Tokyo")
    )
    digits, pairs = found["deployments"]
    assert (digits["name"], digits["parameters"]) == ("mini_digits", {"dataset": "mini_digits"})
    assert digits["schedules"] == [{"cron": "0 3 * * *", "timezone": "Asia/Tokyo"}]
    assert pairs["schedules"] == [{"interval": 6 * 3600.0, "anchor_date": "2024-01-01T00:00:00+00:00", "timezone": "UTC"}]
    assert pairs["tags"] == ["mini_pairs", "mmlop"]
    assert pairs["concurrency_limit"]["limit"] == 1
    environment = pairs["work_pool"]["job_variables"]["env"]
    assert environment[turns.SLOT] == turns.DEFAULT_SLOT
    assert int(environment["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"]) >= 30  # less is refused by Prefect
    entrypoint = digits["entrypoint"].split(":")
    assert (ROOT / entrypoint[0]).is_file()


def test_what_prefect_yaml_says_of_the_environment_wins(tmp_path: Path) -> None:
    text = (ROOT / "prefect.yaml").read_text()
    (tmp_path / "prefect.yaml").write_text(text + "        env:\n          MMLOP_SLOT: gpus-here\n")
    found = deployment.deployments(tmp_path, params())
    assert found["deployments"][0]["work_pool"]["job_variables"]["env"]["MMLOP_SLOT"] == "gpus-here"
    assert found["deployments"][0]["schedules"] == []


@pytest.mark.parametrize("content", [None, "a: [", "deployments: []", "deployments: [{name: a}]", "[]"])
def test_a_prefect_yaml_that_is_none_is_one_sentence(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "prefect.yaml").write_text(content)
    with pytest.raises(MmlopError, match=r"prefect\.yaml cannot be deployed"):
        deployment.pattern(tmp_path)


@pytest.mark.parametrize("command", ["deploy", "worker"])
@pytest.mark.parametrize("url", ["", "http://127.0.0.1:9/api"])
def test_without_a_server_it_is_one_sentence(
    mmlop: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, url: str
) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    for name in ("params.yaml", "prefect.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    with temporary_settings({PREFECT_API_URL: url or None}):
        said = error(mmlop(command))
    assert ("does not answer" if url else "Schedules need a Prefect server") in said


def test_a_lock_is_held_by_whoever_inherited_it(tmp_path: Path) -> None:
    import subprocess
    import time

    file = tmp_path / "lock"
    with turns.alone(file, "test") as held:
        child = subprocess.Popen(["sleep", "1.5"], pass_fds=[held])
    started = time.monotonic()
    with turns.alone(file, "test"):
        assert time.monotonic() - started > 1
    child.wait()


def test_an_interval_is_a_number_and_a_unit() -> None:
    found = {text: schedules.interval(text) for text in ("30s", "15m", "6h", "2d", "0 3 * * *", "h", "-1h", "0h")}
    assert list(found.values())[:4] == [
        timedelta(seconds=30),
        timedelta(minutes=15),
        timedelta(hours=6),
        timedelta(days=2),
    ]
    assert set(list(found.values())[4:]) == {None}


def test_the_repositorys_prefect_yaml_is_one_pattern() -> None:
    assert yaml.safe_load((ROOT / "prefect.yaml").read_text()) == deployment.pattern(ROOT)
