"""From a URI to an adapter folder."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from mmlop import config
from mmlop.errors import MmlopError
from mmlop.files import replacing
from mmlop.store import answering, connect, mlflow
from mmlop.tracking import MODEL
from mmlop.versions import named


def resolve(uri: str | Path) -> Path:
    """The adapter folder behind a folder's path, ``models:/NAME@ALIAS``, ``models:/NAME/VERSION`` or ``runs:/ID/adapter``.
    It may be shared: read it, don't write to it.

    Raises MmlopError, listing what exists, if there is no such thing; TrackingUnavailable if MLflow cannot be used.
    """
    scheme, colon, rest = str(uri).partition(":/")
    if not colon:
        return _local(Path(uri).expanduser())
    rest = rest.strip("/")
    if scheme == "models":
        client = connect()
        with answering():
            return _resolve_model(client, rest)
    if scheme == "runs":
        client = connect()
        with answering():
            return _resolve_run(client, rest)
    raise MmlopError(
        f"'{uri}' is no adapter: give a folder, models:/NAME@champion, models:/NAME/VERSION or runs:/ID/adapter."
    )


def _local(folder: Path) -> Path:
    if (folder / "adapter.json").is_file():
        return folder
    if (folder / "adapter" / "adapter.json").is_file():
        raise MmlopError(f"{folder} is no adapter, but {folder / 'adapter'} is: give that.")
    problem = "has no adapter.json" if folder.is_dir() else "does not exist"
    raise MmlopError(
        f"{folder} is no adapter, it {problem}: give an adapter's folder, models:/NAME@champion or runs:/ID/adapter."
    )


def _resolve_model(client: Any, rest: str) -> Path:
    version = named(client, rest)
    return _fetched(f"models:/{version.name}/{version.version}", version.identity)


def _resolve_run(client: Any, rest: str) -> Path:
    run_id, _, path = rest.partition("/")
    missing = mlflow().exceptions.MlflowException
    try:
        tags = client.get_run(run_id).data.tags
    except missing:
        raise MmlopError(f"There is no run '{run_id}'; runs with an adapter: {_runs(client) or 'none yet'}.") from None
    if path != MODEL or not tags.get("mmlop.adapter"):
        known = f"'{MODEL}' alone" if tags.get("mmlop.adapter") else f"no adapter; runs with one: {_runs(client)}"
        raise MmlopError(f"runs:/{rest} is no adapter: run {run_id} holds {known}.")
    return _fetched(f"runs:/{run_id}/{MODEL}", tags["mmlop.adapter"])


def _fetched(uri: str, identity: str) -> Path:
    """The adapter folder of a model. What is known by its identity is fetched once and checked at every use."""
    from mmlop import adapter as adapters

    kept = config.cache() / "adapters" / identity
    if identity and (kept / "adapter.json").is_file() and adapters.identity(kept) == identity:
        return kept
    folder = Path(tempfile.mkdtemp(prefix="mmlop-"))
    try:
        mlflow().artifacts.download_artifacts(artifact_uri=uri, dst_path=str(folder))
    except mlflow().exceptions.MlflowException as error:
        raise MmlopError(f"The files of {uri} are not in the artifact store any more ({error}).") from error
    except ImportError as error:  # of S3 or Azure, say
        raise MmlopError(f"The files of {uri} are in a store that needs another package ({error}): install it.") from error
    found = next((file.parent for file in sorted(folder.rglob("adapter.json"))), None)
    if found is None:
        raise MmlopError(f"{uri} is no adapter of mmlop: it has no adapter.json.")
    if not identity:
        return found
    if adapters.identity(found) != identity:
        raise MmlopError(f"{uri} was changed after it was registered: register the adapter again.")
    try:
        with replacing(kept) as beside:
            shutil.copytree(found, beside)
    except OSError:  # no home to write to, in a container for instance
        return found
    shutil.rmtree(folder, ignore_errors=True)
    return kept


def _runs(client: Any) -> str:
    """The newest runs that hold an adapter."""
    experiments = [one.experiment_id for one in client.search_experiments(filter_string="name LIKE 'mmlop-%'")]
    found = client.search_runs(experiments, "tags.`mmlop.complete` = 'true'", max_results=5) if experiments else []
    return ", ".join(run.info.run_id for run in found)
