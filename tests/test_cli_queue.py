"""``transcribe --queue`` writes files when the work is done; URLs, standard input, and folders that
are continued.
"""

from __future__ import annotations

import functools
import json
import os
import stat
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from command_line import COMMAND, FAKE, clip, environment, left_in, results
from job_places import Place, end_workers, fake_options, finished, fresh, jobs, place, request
from patience import PATIENCE_S, until
from whisper_nano import CACHE, SPEECH, whisper_nano

from transcribe_mcp.formats import render
from transcribe_mcp.jobs import worker_process
from transcribe_mcp.service import models
from transcribe_mcp.service.models import JobStatus, OutputRequest

CLIP, OTHER, THIRD = (SPEECH / f"en_{n}.flac" for n in range(3))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A user's home; the worker that was started for it is gone afterwards."""
    home = tmp_path_factory.mktemp("home")
    yield home
    end_workers(Place(home / "data"))


def command(
    home: Path, *arguments: str | Path, stdin: bytes = b"", **variables: str
) -> subprocess.CompletedProcess[str]:
    """As in a shell, with standard input."""
    given = {
        "TRANSCRIBE_MCP_DATA_DIR": str(home / "data"),
        "TRANSCRIBE_MCP_CACHE_DIR": str(CACHE / "cache"),
    }
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)],
        cwd=home,
        env=environment(home, **{**given, **variables}),
        input=stdin,
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
    )
    stdout, stderr = done.stdout.decode(), done.stderr.decode()
    assert "Traceback" not in stderr, stderr
    return subprocess.CompletedProcess(done.args, done.returncode, stdout, stderr)


NANO = (
    "transcribe",
    "--engine",
    "ctranslate2",
    "--device",
    "cpu",
    "--language",
    "en",
    "--temperature",
    "0",
)


def nano(
    home: Path, *arguments: str | Path, stdin: bytes = b""
) -> subprocess.CompletedProcess[str]:
    """The repository's Whisper."""
    return command(home, *NANO, "--model", whisper_nano(), *arguments, stdin=stdin)


def test_queued_recordings_become_the_files_that_they_become_at_once(home: Path) -> None:
    talks = home / "talks"
    (talks / "more").mkdir(parents=True)
    for name in ("a.wav", "more/a.wav"):
        clip(talks / name, 4.0)
    (talks / "a.flac").write_bytes(CLIP.read_bytes())
    formats = ("--format", "srt,json", "--max-line-chars", "20")

    queued = nano(home, "--queue", talks, *formats, "--output-dir", "queued", "--json")
    [batch_id] = {row["batch_id"] for row in map(json.loads, queued.stdout.splitlines())}
    shown = command(home, "jobs", "show", batch_id, "--wait", "--json")
    assert [json.loads(line)["status"] for line in shown.stdout.splitlines()] == ["completed"] * 3
    direct = nano(home, talks, *formats, "--output-dir", "direct")

    assert (queued.returncode, direct.returncode) == (0, 0), queued.stderr + direct.stderr
    names = ["a.flac.json", "a.flac.srt", "a.wav.json", "a.wav.srt", "more/a.json", "more/a.srt"]
    assert left_in(home / "queued") == left_in(home / "direct") == names
    for name in names:
        ours, theirs = (
            (home / folder / name).read_text(encoding="utf-8") for folder in ("queued", "direct")
        )
        if name.endswith(".json"):
            ours, theirs = json.loads(ours)["segments"], json.loads(theirs)["segments"]
        assert ours == theirs

    (home / "queued" / "more" / "a.srt").unlink()
    again = nano(home, "--queue", talks, *formats, "--output-dir", "queued", "--skip-existing")
    refused = nano(home, "--queue", talks, *formats, "--output-dir", "queued")

    assert (again.returncode, again.stderr.count("skipped:"), len(again.stdout.splitlines())) == (
        0,
        2,
        1,
    )
    until((home / "queued" / "more" / "a.srt").is_file, "the missing file is written")
    assert (refused.returncode, refused.stderr.count("exists already")) == (1, 3)


def test_a_folder_is_continued_without_a_model(home: Path) -> None:
    """Nothing is loaded where nothing is left to do: the model does not even exist."""
    done, results_dir = home / "done", home / "results"
    done.mkdir()
    results_dir.mkdir()
    clip(done / "old.wav", 1.0)
    (results_dir / "old.txt").write_text("mine")

    arguments = (
        "transcribe",
        "--model",
        "no-such/model",
        done,
        "--output-dir",
        results_dir,
        "--skip-existing",
    )
    first = command(home, *arguments, "--json")

    assert first.returncode == 0, first.stderr
    assert results(first)[str(done / "old.wav")]["status"] == "skipped"
    assert (results_dir / "old.txt").read_text() == "mine"


def test_standard_input_is_kept_until_its_job_has_ended(home: Path) -> None:
    sound = CLIP.read_bytes()
    direct = nano(home, "-", stdin=sound)
    queued = nano(home, "-", "--queue", "--output-dir", "piped", "--format", "txt", stdin=sound)
    job_id = queued.stdout.split()[0]
    command(home, "jobs", "show", job_id, "--wait")

    assert direct.returncode == queued.returncode == 0, direct.stderr + queued.stderr
    assert (home / "piped" / "stdin.txt").read_text(encoding="utf-8") == direct.stdout
    until(lambda: left_in(home / "data" / "spool") == [], "the recording is deleted")
    for arguments in (("-",), ("-", "--queue")):
        empty = command(home, *FAKE, *arguments)
        assert empty.returncode == 1
        assert "standard input is empty" in empty.stderr and "hint:" in empty.stderr


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The folder's URL on this machine."""
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_a_url_is_transcribed_at_once_and_queued(home: Path, tmp_path: Path) -> None:
    (tmp_path / "my talk.flac").write_bytes(CLIP.read_bytes())
    with served(tmp_path) as address:
        url = f"{address}/my%20talk.flac"
        direct = nano(home, url)
        queued = nano(home, url, "--queue", "--output-dir", "fetched")
        command(home, "jobs", "show", queued.stdout.split()[0], "--wait")

    assert direct.returncode == queued.returncode == 0, direct.stderr + queued.stderr
    assert (home / "fetched" / "my talk.txt").read_text(encoding="utf-8") == direct.stdout != ""
    for arguments in ((url, "--offline", "--queue"), ("ftp://example.org/a.mp3",)):
        refused = command(home, *FAKE, *arguments)
        assert refused.returncode == 1
        assert "hint:" in refused.stderr and "no such file" not in refused.stderr


# --- through the service --------------------------------------------------------------------------


@pytest.fixture
def unattended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """A store without a worker, until a test starts one."""
    start = worker_process.start_worker
    with monkeypatch.context() as patch, place(tmp_path / "data") as made:
        patch.setattr(worker_process, "start_worker", lambda chosen: False)
        made.start = lambda: patch.setattr(worker_process, "start_worker", start)  # type: ignore[attr-defined]
        yield made
    fresh()


def test_nothing_is_deleted_that_should_be_kept_for_good_and_many_only_when_told(
    unattended: Place, tmp_path: Path
) -> None:
    def rm(*arguments: str) -> subprocess.CompletedProcess[str]:
        return command(
            tmp_path, "jobs", "rm", *arguments, TRANSCRIBE_MCP_DATA_DIR=str(unattended.data_dir)
        )

    def there() -> set[str]:
        return {job.job_id for job in jobs.list_jobs().jobs}

    batch = jobs.submit_batch([str(CLIP), str(OTHER), str(THIRD)], request(CLIP, fake_options()))
    jobs.cancel(batch.job_id)
    ids = [job.job_id for job in batch.jobs]

    kept = rm("--keep-days", "0", "--yes")
    unasked = rm("--keep-days", "0.0000001")
    several = rm(batch.job_id)
    missing = rm("--yes", *ids, "nothing")
    assert there() == set(ids)
    assert (kept.returncode, unasked.returncode, several.returncode, missing.returncode) == (
        0,
        2,
        2,
        1,
    )
    assert "0 jobs deleted" in kept.stderr
    assert "--yes" in unasked.stderr and "--yes" in several.stderr

    one = rm(ids[0])
    rest = rm("--keep-days", "0.0000001", "--yes")
    assert (one.returncode, rest.returncode) == (0, 0)
    assert "1 job deleted" in one.stderr and "2 jobs deleted" in rest.stderr
    assert there() == set()


def to_files(directory: Path, *formats: str) -> OutputRequest:
    return OutputRequest(str(directory), formats)


def test_a_file_that_cannot_be_written_is_a_notice_and_others_are_written(
    unattended: Place, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    wanted = models.JobRequest("", fake_options(), output=to_files(out, "txt", "srt", "json"))
    [job] = jobs.submit_batch([str(CLIP)], wanted).jobs
    (out / "en_0.srt").mkdir()
    (out / "en_0.txt").write_text("mine")

    unattended.start()  # type: ignore[attr-defined]
    ended = finished(job.job_id)

    assert ended.status is JobStatus.COMPLETED
    assert {notice.code for notice in ended.warnings} >= {"output", "output_exists"}
    assert ended.outputs == (str(out / "en_0.json"),)
    assert (out / "en_0.txt").read_text() == "mine"
    assert jobs.get_transcript(job.job_id).text
    answered = jobs.submit(request(CLIP, fake_options()))
    assert answered.job_id == job.job_id


def test_files_are_written_of_what_the_library_has_and_not_of_what_was_cancelled(
    unattended: Place, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    given_up = jobs.submit_batch(
        [str(OTHER)], models.JobRequest("", fake_options(), output=to_files(out / "1", "txt"))
    )
    wanted = jobs.submit_batch(
        [str(OTHER)], models.JobRequest("", fake_options(), output=to_files(out / "2", "txt"))
    )
    jobs.cancel(given_up.job_id)

    unattended.start()  # type: ignore[attr-defined]
    first = finished(wanted.jobs[0].job_id)
    third = jobs.submit_batch(
        [str(OTHER)], models.JobRequest("", fake_options(), output=to_files(out / "3", "vtt"))
    )
    answered = finished(third.jobs[0].job_id)

    assert left_in(out) == ["2/en_1.txt", "3/en_1.vtt"]
    assert answered.from_job_id == first.job_id
    transcript = jobs.get_transcript(first.job_id)
    assert (out / "2" / "en_1.txt").read_text(encoding="utf-8") == render(transcript, "txt")


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_what_waits_from_standard_input_is_its_owners_alone(home: Path, tmp_path: Path) -> None:
    """No worker can start: the data directory has a lock that is held."""
    lock = worker_process.hold_supervisor_lock(tmp_path)
    assert lock is not None
    try:
        queued = command(
            home,
            *NANO,
            "-",
            "--queue",
            stdin=OTHER.read_bytes(),
            TRANSCRIBE_MCP_DATA_DIR=str(tmp_path),
        )
        folder = tmp_path / "spool"
        [kept] = folder.iterdir()
        assert kept.read_bytes() == OTHER.read_bytes()
        assert (stat.S_IMODE(kept.stat().st_mode), stat.S_IMODE(folder.stat().st_mode)) == (
            0o600,
            0o700,
        )
        job_id = queued.stdout.split()[0]
        assert (
            command(
                home, "jobs", "cancel", job_id, TRANSCRIBE_MCP_DATA_DIR=str(tmp_path)
            ).returncode
            == 0
        )
        assert left_in(folder) == []
    finally:
        lock.release()
    large = command(
        home, *FAKE, "-", stdin=OTHER.read_bytes(), TRANSCRIBE_MCP_MAX_FILE_GIB="0.00001"
    )
    assert (large.returncode, "larger than the limit" in large.stderr) == (1, True)
