"""Whatever takes the place of a recording before it is read, nothing outside the roots is read."""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from job_places import fake_options, finished, jobs, place
from media import speechlike, write_audio
from whisper_nano import SPEECH

from transcribe_mcp.errors import SourceError, SourceRefusedError, SourceUnreadableError
from transcribe_mcp.formats.files import write_whole
from transcribe_mcp.jobs.database import FILE_NAME
from transcribe_mcp.jobs.worker_process import hold_supervisor_lock
from transcribe_mcp.media.access import Access, opened_inside
from transcribe_mcp.media.decode import probe, read_blocks
from transcribe_mcp.media.openat import writable_directory
from transcribe_mcp.service.models import Job, JobRequest
from transcribe_mcp.service.sandbox import Sandbox
from transcribe_mcp.service.service import default_service

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="links and pipes of POSIX")
OPENINGS = 1_500


@dataclass(frozen=True)
class Disk:
    """Recordings inside a root, each in a directory of its own, and one outside."""

    root: Path
    secret: Path

    def recording(self, name: str) -> Path:
        path = self.root / name / "talk.flac"
        path.parent.mkdir(parents=True)
        shutil.copy(SPEECH / "en_0.flac", path)
        return path


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    made = Disk(tmp_path / "root", tmp_path / "outside" / "talk.flac")
    made.root.mkdir()
    made.secret.parent.mkdir()
    shutil.copy(SPEECH / "en_1.flac", made.secret)
    return made


@contextmanager
def no_worker(data_dir: Path) -> Iterator[None]:
    """Jobs that are submitted meanwhile wait."""
    data_dir.mkdir(exist_ok=True)
    lock = hold_supervisor_lock(data_dir)
    assert lock is not None
    try:
        yield
    finally:
        lock.release()


def link_file(path: Path, disk: Disk) -> None:
    path.unlink()
    path.symlink_to(disk.secret)


def link_directory(path: Path, disk: Disk) -> None:
    shutil.rmtree(path.parent)
    path.parent.symlink_to(disk.secret.parent)


def link_to_hidden(path: Path, disk: Disk) -> None:
    hidden = disk.root / ".private" / "talk.flac"
    hidden.parent.mkdir()
    path.rename(hidden)
    path.symlink_to(hidden)


def link_to_device(path: Path, disk: Disk) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def link_round(path: Path, disk: Disk) -> None:
    path.unlink()
    path.symlink_to(path)


def pipe(path: Path, disk: Disk) -> None:
    path.unlink()
    os.mkfifo(path)


def directory(path: Path, disk: Disk) -> None:
    path.unlink()
    path.mkdir()


def remove(path: Path, disk: Disk) -> None:
    path.unlink()


def link_inside(path: Path, disk: Disk) -> None:
    moved = disk.root / "moved.flac"
    path.rename(moved)
    path.symlink_to(moved)


def leave(path: Path, disk: Disk) -> None: ...


CHANGES: dict[Callable[[Path, Disk], None], str | None] = {
    link_file: "source_refused",
    link_directory: "source_refused",
    link_to_hidden: "source_refused",
    link_to_device: "source_refused",
    link_round: "source_refused",
    pipe: "source_unreadable",
    directory: "source_unreadable",
    remove: "source_not_found",
    link_inside: None,
    leave: None,
}


def code_of(job: Job) -> str | None:
    assert job.error is None or (job.error.message and job.error.hint)
    return job.error.code if job.error else None


def test_a_job_of_a_server_reads_what_lies_inside_its_roots_when_it_is_read(
    disk: Disk, tmp_path: Path
) -> None:
    data, root = tmp_path / "data", tmp_path / "second root"
    root.mkdir()
    shutil.copy(SPEECH / "en_0.flac", root / "talk.flac")
    access = Access((disk.root, root))
    with place(data):
        submitted = {}
        with no_worker(data):
            for change in CHANGES:
                path = disk.recording(change.__name__)
                wanted = JobRequest(str(path), fake_options(), force=True)
                submitted[change] = Sandbox(default_service(), access).submit(wanted).job_id
                change(path, disk)
            own = jobs.submit(
                JobRequest(str(disk.root / "link_file" / "talk.flac"), fake_options(), force=True)
            )
            sandbox = Sandbox(default_service(), access)
            batch = sandbox.submit_batch(
                sandbox.find([str(root)]), JobRequest("", fake_options(), force=True)
            )
            shutil.rmtree(root)
            root.symlink_to(disk.secret.parent)
        ended = {change: finished(job_id) for change, job_id in submitted.items()}

        assert {change: code_of(job) for change, job in ended.items()} == CHANGES
        assert finished(own.job_id).error is None  # its user may read what he links to
        assert str(disk.secret) not in " ".join(
            job.error.message for job in ended.values() if job.error
        )
        assert [code_of(finished(each.job_id)) for each in batch.jobs] == ["source_refused"]

        link = disk.root / "link_file" / "talk.flac"
        link.unlink()
        shutil.copy(SPEECH / "en_0.flac", link)
        assert finished(jobs.retry(submitted[link_file]).job_id).error is None


def test_a_recording_that_was_swapped_is_not_even_looked_at_when_it_is_submitted(
    disk: Disk, tmp_path: Path
) -> None:
    """Or its hash would find the transcript that somebody else has of the file outside."""
    path = disk.recording("talk")
    roots = tuple(map(str, Access((disk.root,)).resolved))
    with place(tmp_path / "data"), no_worker(tmp_path / "data"):
        link_file(path, disk)
        with pytest.raises(SourceRefusedError):
            jobs.submit(JobRequest(str(path), fake_options(), roots=roots))
        batch = jobs.submit_batch([str(path)], JobRequest("", fake_options(), roots=roots))
        assert [each.error.code for each in batch.refused] == ["source_refused"] and not batch.jobs


@pytest.mark.parametrize("swap_directory", [False, True])
def test_no_race_lets_a_file_outside_be_read(disk: Disk, swap_directory: bool) -> None:
    path = disk.recording("talk")
    what = path.parent if swap_directory else path
    real, link, stop = disk.root / "aside", disk.root / "link", threading.Event()
    link.symlink_to(disk.secret.parent if swap_directory else disk.secret)

    def swap() -> None:
        while not stop.is_set():
            what.rename(real)
            link.rename(what)
            what.rename(link)
            real.rename(what)

    inside, outcomes = path.stat(), []
    roots = Access((disk.root,)).resolved
    swapping = threading.Thread(target=swap)
    swapping.start()
    try:
        for _ in range(OPENINGS):
            try:
                with opened_inside(path, roots) as file:
                    outcomes.append(os.path.samestat(Path(os.fspath(file)).stat(), inside))
            except SourceError:
                outcomes.append(None)
    finally:
        stop.set()
        swapping.join()
    assert outcomes.count(False) == 0 and outcomes.count(True) > 0, outcomes.count(None)


@pytest.mark.parametrize(
    ("codec", "name", "reopens"),
    [
        ("flac", "a.flac", True),
        ("flac", "a.flac", False),
        ("libmp3lame", "a.mp3", True),
        ("aac", "a.m4a", True),
    ],
)
def test_a_file_that_is_held_open_gives_the_same_samples_on_any_number_of_threads(
    tmp_path: Path, codec: str, name: str, reopens: bool
) -> None:
    """Also where all who open a descriptor's path share one position, as on macOS."""
    path = write_audio(tmp_path / name, codec, np.tile(speechlike(30.0), 9))
    expected = np.concatenate(list(read_blocks(path)))
    with opened_inside(path, Access((tmp_path,)).resolved) as file:
        path.rename(tmp_path / "moved")
        path.write_text("something else")
        file.reopens = file.reopens and reopens
        for threads in (1, 3) if codec != "aac" else (1,):
            assert np.array_equal(
                np.concatenate(list(read_blocks(file, threads=threads))), expected
            )


def test_a_recording_known_by_its_extension_alone_is_still_known_when_it_is_held_open(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.g722"
    path.write_bytes(bytes(range(256)) * 200)
    with opened_inside(path, Access((tmp_path,)).resolved) as file:
        assert probe(file) == probe(path)


PLAYLISTS = {
    "list.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{secret}\n#EXT-X-ENDLIST\n",
    "list.wav": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{secret}\n#EXT-X-ENDLIST\n",
    "list.ffconcat": "ffconcat version 1.0\nfile '{secret}'\n",
    "list.flac": "ffconcat version 1.0\nfile '{secret}'\n",
    "list.sdp": (
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 9 RTP/AVP 0\n"
    ),
    "list.pls": "[playlist]\nFile1={secret}\nNumberOfEntries=1\n",
    "list.asx": '<asx version="3.0"><entry><ref href="{secret}"/></entry></asx>',
    "list.mpd": '<?xml version="1.0"?><MPD><Period><BaseURL>{secret}</BaseURL></Period></MPD>',
}


@pytest.mark.parametrize("name", PLAYLISTS)
def test_a_playlist_opens_nothing(disk: Disk, name: str) -> None:
    path = disk.root / name
    path.write_text(PLAYLISTS[name].format(secret=disk.secret), encoding="utf-8")
    with opened_inside(path, Access((disk.root,)).resolved) as file, pytest.raises(SourceError):
        list(read_blocks(file))


def test_a_pipe_is_not_waited_for(disk: Disk) -> None:
    path = disk.root / "talk.flac"
    os.mkfifo(path)
    with pytest.raises(SourceUnreadableError), opened_inside(path, Access((disk.root,)).resolved):
        pass


@pytest.mark.skipif(not hasattr(os, "O_PATH"), reason="paths of descriptors, which Linux has")
def test_a_result_is_written_to_the_directory_that_was_checked(disk: Disk, tmp_path: Path) -> None:
    folder, moved = disk.root / "results", tmp_path / "moved"
    folder.mkdir()
    with writable_directory(folder) as directory:
        folder.rename(moved)
        folder.symlink_to(disk.secret.parent)
        write_whole(directory / "talk.srt", b"1", overwrite=False)
    assert (moved / "talk.srt").read_bytes() == b"1" and not (
        disk.secret.parent / "talk.srt"
    ).exists()
    with pytest.raises(OSError), writable_directory(folder):
        pass


def test_a_store_of_version_1_opens_and_its_jobs_are_still_there(
    disk: Disk, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    with place(data), no_worker(data):
        job = jobs.submit(JobRequest(str(disk.secret), fake_options()))
        jobs.close()
        with closing(sqlite3.connect(data / FILE_NAME)) as connection:
            connection.execute("DROP TABLE job_roots")
            connection.execute("UPDATE store_about SET value = '1' WHERE name = 'schema_version'")
            connection.commit()
        assert jobs.get_job(job.job_id).status == "queued"
        later = Sandbox(default_service(), Access((disk.root,))).submit(
            JobRequest(str(disk.recording("talk")), fake_options())
        )
        with closing(sqlite3.connect(data / FILE_NAME)) as connection:
            roots = "SELECT roots FROM job_roots"
            assert connection.execute(roots).fetchall() == [(f'["{disk.root}"]',)]
            jobs.delete(later.job_id)
            assert connection.execute(roots).fetchall() == []
