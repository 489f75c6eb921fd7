"""A Postgres server of the session's own; a plugin (``pytest_plugins = ["postgres"]``)."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg2
import pytest


class Postgres:
    """A cluster in ``folder``, on 127.0.0.1, with a password."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self.programs, self.folder, self.password = programs, folder, secrets.token_hex(8)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        # It refuses to run as root, and another user cannot look into pytest's folders.
        user = pwd.getpwnam("postgres") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
        self.user: dict[str, Any] = {}
        if os.geteuid() == 0:
            self.user = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        (folder / "password").write_text(self.password)
        for path in (folder, folder / "password"):
            os.chown(path, user.pw_uid, user.pw_gid)
        self._call("initdb", "-U", "postgres", "-A", "scram-sha-256", f"--pwfile={folder / 'password'}", "--no-sync")

    def start(self) -> None:
        settings = f"-c listen_addresses=127.0.0.1 -c fsync=off -p {self.port} -k {self.folder}"
        self._call("pg_ctl", "start", "-w", "-t", "60", "-o", settings)

    def stop(self) -> None:
        """At once, as in a crash."""
        self._call("pg_ctl", "stop", "-w", "-m", "immediate")

    def create(self, database: str) -> None:
        """A database that belongs to `mmlop`, who may do nothing else."""
        if not self.query("SELECT 1 FROM pg_roles WHERE rolname = 'mmlop'"):
            self.query(f"CREATE ROLE mmlop LOGIN PASSWORD '{self.password}'")
        self.query(f"CREATE DATABASE {database} OWNER mmlop")

    def url(self, database: str, dialect: str = "postgresql", user: str = "mmlop") -> str:
        return f"{dialect}://{user}:{self.password}@127.0.0.1:{self.port}/{database}"

    def query(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        connection = psycopg2.connect(self.url(database, user="postgres"))
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()

    def _call(self, program: str, *arguments: str) -> None:
        command = [self.programs / program, "-D", self.folder / "data", *arguments]
        # Into a file: the server goes on holding what pg_ctl was given to write to.
        with (self.folder / "said.txt").open("ab") as said:
            done = subprocess.run(command, cwd=self.folder, stdout=said, stderr=said, **self.user)
        assert done.returncode == 0, (self.folder / "said.txt").read_text()


def programs() -> Path | None:
    """Where Debian keeps the server's programs, none of which is on the path."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    return next((file.parent for file in sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)), None)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A fresh cluster that runs, stopped and removed afterwards. Skips where Postgres is not installed, but in CI."""
    if (found := programs()) is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("Postgres is not installed (Debian: postgresql)")
    folder = Path(tempfile.mkdtemp(prefix="mmlop-postgres-"))
    try:
        cluster = Postgres(found, folder)
        cluster.start()
        try:
            yield cluster
        finally:
            cluster.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
