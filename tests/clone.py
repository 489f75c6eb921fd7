"""A clone of the project that tests may run DVC, Prefect and MLflow in."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]


class Project:
    """A clone of the project in a folder of its own, under git, with commands run in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        listed = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, check=True
        ).stdout
        for name in filter(None, listed.decode().split("\0")):
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name)
        self.run("git", "init", "-q")

    def edit(self, **changes: object) -> None:
        """Set keys of params.yaml, dots written as two underscores: ``fewshot__shots=2``."""
        file = self.folder / "params.yaml"
        params = yaml.safe_load(file.read_text())
        for path, value in changes.items():
            *parents, key = path.split("__")
            section = params
            for parent in parents:
                section = section[parent]
            section[key] = value
        file.write_text(yaml.safe_dump(params, sort_keys=False))

    def commit(self) -> None:
        self.run("git", "add", "-A")
        identity = ("-c", "user.name=test", "-c", "user.email=test@example.org")
        self.run("git", *identity, "commit", "-q", "--allow-empty", "-m", "state")

    def run(self, *command: str, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the project with this interpreter's tools; standard error joins standard output."""
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment() | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=900,
        )
        if check and done.returncode:
            raise AssertionError(f"{' '.join(command)} exited {done.returncode}:\n{done.stdout}")
        return done

    def environment(self) -> dict[str, str]:
        """This interpreter's tools, the clone's own code rather than the checkout that is installed, the default stores."""
        inherited = {k: v for k, v in os.environ.items() if k not in ("MLFLOW_TRACKING_URI", "PYTHONPATH", "DVC_ROOT")}
        path = os.pathsep.join([str(Path(sys.executable).parent), inherited.get("PATH", "")])
        return inherited | {"PATH": path, "PYTHONPATH": str(self.folder), "COLUMNS": "200"}

    def mmlop(self, *arguments: str, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, "-m", "mmlop.cli", *arguments, check=check, **environment)
