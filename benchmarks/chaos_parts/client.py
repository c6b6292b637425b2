"""A front end that is killed now and then: it submits its recordings, writes down their ids and
waits for them.

    client.py LOG STOP RECORDING...

It goes on from its log, wave after wave, until the file STOP exists and every job of its log has
ended. A line of the log is JSON: {"job", "source", "wave"} for an id that was given out, {"ended"}
for a job that has, {"error"} for a call that failed.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from transcribe_mcp.errors import TranscribeError
from transcribe_mcp.service import models
from transcribe_mcp.service.service import default_service as service

PAUSE_S = 0.5


class Client:
    def __init__(self, log: Path, options: models.JobOptions) -> None:
        self._log = log
        self._options = options
        self._sources: dict[str, tuple[str, int]] = {}
        self._ended: set[str] = set()
        text = log.read_text(encoding="utf-8") if log.exists() else ""
        for line in text.splitlines():
            with suppress(ValueError):  # it was killed while it wrote that
                self._take(json.loads(line))
        if text and not text.endswith("\n"):
            with log.open("a", encoding="utf-8") as end:
                end.write("\n")

    def serve(self, recordings: list[str], stop: Path) -> None:
        wave = max((wave for _, wave in self._sources.values()), default=0)
        while True:
            self._submit([r for r in recordings if (r, wave) not in self._sources.values()], wave)
            self._wait()
            if stop.exists():
                return
            wave += 1

    def _submit(self, recordings: list[str], wave: int) -> None:
        for recording in recordings:
            request = models.JobRequest(recording, self._options, force=True)
            job = self._until_it_works(lambda request=request: service().submit(request))  # type: ignore[misc]
            self._note({"job": job.job_id, "source": recording, "wave": wave})

    def _wait(self) -> None:
        while left := [job_id for job_id in self._sources if job_id not in self._ended]:
            for job_id in left:
                job = self._until_it_works(lambda job_id=job_id: service().get_job(job_id))  # type: ignore[misc]
                if job.status.is_final:
                    self._note({"ended": job_id})
            time.sleep(PAUSE_S)

    def _until_it_works(self, call: Callable[[], Any]) -> Any:
        """Calls fail while the server is down; each of their errors has to be one of ours."""
        while True:
            try:
                return call()
            except TranscribeError as error:
                self._note({"error": error.code, "message": str(error)})
            except Exception as error:  # noqa: BLE001 - any other kind is what this looks for
                self._note({"error": "foreign", "message": f"{type(error).__name__}: {error}"})
            time.sleep(PAUSE_S)

    def _note(self, line: dict[str, Any]) -> None:
        with self._log.open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")
            log.flush()
            os.fsync(log.fileno())
        self._take(line)

    def _take(self, line: dict[str, Any]) -> None:
        if "job" in line:
            self._sources[line["job"]] = (line["source"], line["wave"])
        elif "ended" in line:
            self._ended.add(line["ended"])


def main() -> None:
    log, stop, *recordings = sys.argv[1:]
    options = models.JobOptions.loads(os.environ["CHAOS_OPTIONS"])
    Client(Path(log), options).serve(recordings, Path(stop))


if __name__ == "__main__":
    main()
