"""The processes of one run of chaos, and what can be done to them."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from common import OWN_AUDIO, own_model

from transcribe_mcp.service import models

PARTS = Path(__file__).parent
CLIENT = PARTS / "client.py"
FRONT_ENDS = 3
RECORDINGS = 9
WORKER, SUPERVISOR, WRITER = (
    f"transcribe_mcp.jobs.{name}" for name in ("worker", "supervisor", "writer")
)
OPTIONS = {
    "engine": "ctranslate2",
    "device": "cpu",
    "language": "en",
    "temperatures": (0.0,),
    "batch_size": 1,
}


@dataclass
class World:
    """The processes of one run and what was done to them.

    Attributes:
        data_dirs: of each front end; the same one for all on SQLite.
        database_url: of PostgreSQL, or empty.
        done: what was done -> how often.
    """

    folder: Path
    data_dirs: Sequence[Path]
    database_url: str
    chance: random.Random
    clients: list[subprocess.Popen[bytes]] = field(default_factory=list)
    stopped: dict[int, float] = field(default_factory=dict)  # pid -> when it may go on
    done: Counter[str] = field(default_factory=Counter)

    @property
    def stop_file(self) -> Path:
        return self.folder / "stop"

    def environment(self, data_dir: Path) -> dict[str, str]:
        chosen = {
            "DATA_DIR": str(data_dir),
            "CACHE_DIR": str(own_model().parent / "cache"),
            "DATABASE_URL": self.database_url,
            "WORKERS": "1",
            "EXIT_AFTER_S": "600",
            "MAX_QUEUE_LENGTH": "100000",
        }
        options = models.JobOptions(model=str(own_model()), **OPTIONS)  # type: ignore[arg-type]
        return {
            **os.environ,
            **{f"TRANSCRIBE_MCP_{name}": value for name, value in chosen.items()},
            "PYTHONPATH": str(PARTS),
            "CHAOS_DECODED": str(self.folder / "decoded"),
            "CHAOS_OPTIONS": options.dumps(),
            "HF_HUB_OFFLINE": "1",
        }

    def start_clients(self) -> None:
        for number in range(FRONT_ENDS):
            self.clients.append(self._client(number))

    def _client(self, number: int) -> subprocess.Popen[bytes]:
        log = self.folder / f"client{number}.jsonl"
        command = [
            sys.executable,
            str(CLIENT),
            str(log),
            str(self.stop_file),
            *recordings()[number::FRONT_ENDS],
        ]
        with (self.folder / "clients.log").open("ab") as out:
            environment = self.environment(self.data_dirs[number])
            return subprocess.Popen(command, env=environment, stdout=out, stderr=out)

    def start_clients_again(self) -> None:
        """Those that were killed; one that ended in good order has nothing left to do."""
        for number, client in enumerate(self.clients):
            if client.poll() not in (None, 0):
                self.clients[number] = self._client(number)

    def processes(self, module: str) -> list[psutil.Process]:
        """Those of this run that run ``module``."""
        found = []
        for process in psutil.process_iter():
            try:
                if module in process.cmdline() and str(self.folder) in "".join(
                    process.environ().values()
                ):
                    found.append(process)
            except psutil.Error:
                continue  # it has gone meanwhile
        return found

    def did(self, what: str, n: int = 1) -> None:
        self.done[what] += n
        print(f"{time.strftime('%H:%M:%S')} {what}", flush=True)

    # --- what is done -----------------------------------------------------------------------------

    def kill(self, module: str, what: str) -> bool:
        """One of these processes, if there is any."""
        found = self.processes(module)
        if found:
            self.chance.choice(found).kill()
            self.did(f"{what} killed")
        return bool(found)

    def kill_supervisor(self) -> bool:
        """And its worker, too, half of the time."""
        found = self.processes(SUPERVISOR)
        if not found:
            return False
        one = self.chance.choice(found)
        children = one.children() if self.chance.random() < 0.5 else []
        for each in (one, *children):
            each.kill()
        self.did("supervisor and worker killed" if children else "supervisor killed")
        return True

    def kill_client(self) -> bool:
        self.chance.choice(self.clients).kill()
        self.did("front end killed")
        return True

    def kill_all(self) -> bool:
        """As when the power goes."""
        for module in (SUPERVISOR, WORKER, WRITER):
            for process in self.processes(module):
                process.kill()
        for client in self.clients:
            client.kill()
        self.did("everything killed at once")
        return True

    def stop_worker(self) -> bool:
        """For shorter or longer than until others take it for dead."""
        found = [process for process in self.processes(WORKER) if process.pid not in self.stopped]
        if found:
            one = self.chance.choice(found)
            one.suspend()
            self.stopped[one.pid] = time.monotonic() + self.chance.choice((8.0, 27.0))
            self.did("worker stopped for a while")
        return bool(found)

    def let_go_on(self, *, all_of_them: bool = False) -> None:
        for pid, moment in list(self.stopped.items()):
            if all_of_them or time.monotonic() > moment:
                del self.stopped[pid]
                try:
                    os.kill(pid, signal.SIGCONT)
                except ProcessLookupError:
                    continue  # killed meanwhile

    def cut_connections(self) -> bool:
        import psycopg

        others = (
            "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            connection.execute(f"SELECT pg_terminate_backend(pid) {others}")
        self.did("connections cut")
        return True


def recordings() -> list[str]:
    """Short ones, and the long conversation for the first front end."""
    short = sorted(OWN_AUDIO.glob("en_*.flac"))[: RECORDINGS - 1]
    return [str(OWN_AUDIO.parent / "conversation" / "three_voices.opus"), *map(str, short)]
