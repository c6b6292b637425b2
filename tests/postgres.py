"""A PostgreSQL server of one's own, where the system has its programs."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest
from job_places import Place, place

_numbers = count(1)


def programs() -> Path | None:
    """The directory with ``initdb``, newest version first."""
    on_path = shutil.which("initdb")
    if on_path is not None:
        return Path(on_path).parent
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3])
    )
    return found[-1].parent if found else None


def _as_who() -> dict[str, Any]:
    """The server refuses to run as root."""
    return (
        {"user": "postgres", "group": "postgres"}
        if os.name == "posix" and os.geteuid() == 0
        else {}
    )


@dataclass(frozen=True, slots=True)
class Server:
    """A server on a port of its own that can be stopped and started again."""

    folder: Path
    port: int
    programs: Path

    @property
    def url(self) -> str:
        """Without a database."""
        return f"postgresql://tester@127.0.0.1:{self.port}"

    def create(self) -> None:
        data = f"{self.folder}/data"
        self._run("initdb", "-D", data, "-A", "trust", "-U", "tester", "-N", "-E", "UTF8")

    def start(self) -> None:
        options = f"-h 127.0.0.1 -p {self.port} -k {self.folder} -c max_connections=200"
        self._run(
            "pg_ctl",
            "-D",
            f"{self.folder}/data",
            "-w",
            "-l",
            f"{self.folder}/log",
            "-o",
            options,
            "start",
        )

    def stop(self, mode: str) -> None:
        """``fast`` breaks the connections, ``immediate`` also leaves the recovery to the next
        start.
        """
        self._run("pg_ctl", "-D", f"{self.folder}/data", "-m", mode, "-w", "stop")

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self.programs / program), *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=self.folder, **_as_who())


@contextmanager
def running(where: Path) -> Iterator[Server]:
    """A server on a free port of this machine, gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="tmcp-pg-"))
    who = _as_who()
    if who:
        shutil.chown(folder, who["user"], who["group"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    one = Server(folder, port, where)
    try:
        one.create()
        one.start()
        try:
            yield one
        finally:
            one.stop("immediate")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def server() -> Iterator[str]:
    """The URL, without a database, of a server for tests; they skip where its programs are
    missing.
    """
    where = programs()
    if where is None:
        pytest.skip("PostgreSQL is not installed")
    with running(where) as one:
        yield one.url


def new_database(server_url: str) -> str:
    """The URL of an empty database."""
    name = f"jobs_{next(_numbers)}"
    with psycopg.connect(f"{server_url}/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")  # type: ignore[arg-type]
    return f"{server_url}/{name}"


@contextmanager
def place_on(database: str, folder: Path) -> Iterator[Place]:
    """A place with a store in ``sqlite``, or in a ``postgresql`` server of its own."""
    if database == "sqlite":
        with place(folder) as made:
            yield made
        return
    with server() as url, place(folder, DATABASE_URL=new_database(url)) as made:
        yield made
