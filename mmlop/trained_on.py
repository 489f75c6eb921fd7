"""Which pictures an adapter was trained on: what a comparison on validation pictures has to leave out."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from mmlop.errors import MmlopError
from mmlop.store import mlflow
from mmlop.versions import Version


def of_version(client: Any, version: Version) -> set[str]:
    """Content hashes of the pictures, as the version's run recorded them. Raises MmlopError if they are not known."""
    return of_run(client, version.run_id, f"version {version.version} of {version.name}")


def of_run(client: Any, run_id: str, adapter: str) -> set[str]:
    """The same of a run; ``adapter`` is what an error calls its adapter."""
    with tempfile.TemporaryDirectory(prefix="mmlop-") as folder:
        try:
            return _recorded(Path(client.download_artifacts(run_id, "run.json", folder)))
        except (mlflow().exceptions.MlflowException, OSError, ValueError, KeyError) as error:
            raise MmlopError(
                f"what {adapter} was trained on is not known any more, its run '{run_id}' has no readable run.json"
            ) from error


def of_folder(folder: Path) -> set[str]:
    """The same of an adapter's folder, beside which its training left run.json."""
    from mmlop import adapter as adapters  # imports torch

    file = folder.absolute().parent / "run.json"
    try:
        if json.loads(file.read_bytes())["deliverable"]["identity"] != adapters.identity(folder):
            raise MmlopError(f"what {folder} was trained on is not known, {file} is of another adapter")
        return _recorded(file)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MmlopError(f"what {folder} was trained on is not known, {file} is not there or not readable") from error


def _recorded(run: Path) -> set[str]:
    return set(json.loads(run.read_bytes())["deliverable"]["trained_on"])
