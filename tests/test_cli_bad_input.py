"""Whatever the command is given: one line of what is wrong, a way out, the exit code, nothing
half-written.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from command_line import COMMAND, FAKE, environment, left_in, results, run, write_silence, write_wav
from media import speechlike, wav_bytes, write_audio, write_video
from patience import PATIENCE_S
from slow import slow

LONG_NAME = "x" * 300 + ".wav"
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="POSIX streams and signals")

# What cannot be transcribed, and the code of the error.
BAD = {
    "missing.wav": "source_not_found",
    "nothing*.wav": "source_not_found",
    "empty folder": "source_not_found",
    "": "source_not_found",
    LONG_NAME: "source_unreadable",
    "pipe.wav": "source_unreadable",
    "empty.wav": "not_media",
    "words.wav": "not_media",
    "noise.mp3": "not_media",
    "picture.mp4": "not_media",
    "locked.mp4": "not_media",
    "no samples.wav": "no_audio",
    "silent film.mp4": "no_audio",
}
# What looks odd and can: the seconds of each, and the code of its warning.
ODD: dict[str, tuple[float, str | None]] = {
    "truncated.flac": (5, "source_damaged"),
    "really flac.mp3": (2, None),
    "eight channels.wav": (2, None),
    "8 kHz.wav": (2, None),
    "192 kHz.flac": (2, None),
    "24 bit.wav": (2, None),
    "float.wav": (2, None),
    "uneven frames.mp4": (3, None),
    "late sound.mkv": (6, "gap_filled"),
    "hole.mkv": (6, "gap_filled"),
    "tenth of a second.wav": (0.1, None),
    "ünïcödé 録音.wav": (2, None),
    "-v leading dash.wav": (2, None),
    "http:talk.wav": (2, None),
    "%03d [x].wav": (2, None),
}


def make_bad(folder: Path) -> None:
    (folder / "empty folder").mkdir()
    (folder / "empty.wav").write_bytes(b"")
    (folder / "words.wav").write_text("not a sound\n" * 100)
    (folder / "noise.mp3").write_bytes(np.random.default_rng(1).bytes(50_000))
    (folder / "picture.mp4").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(1000))
    (folder / "no samples.wav").write_bytes(wav_bytes(b"", rate_hz=16_000, channels=1, bits=16))
    write_video(folder / "silent film.mp4", audio_codec=None)
    keys = {
        "encryption_scheme": "cenc-aes-ctr",
        "encryption_key": "01" * 16,
        "encryption_kid": "02" * 16,
    }
    with av.open(str(folder / "locked.mp4"), "w", container_options=keys) as container:
        stream = container.add_stream("aac", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(speechlike(2)[None], format="fltp", layout="mono")
        frame.sample_rate = 16_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    os.mkfifo(folder / "pipe.wav")


def make_odd(folder: Path) -> None:
    whole = write_audio(folder / "whole.flac", "flac", speechlike(10)).read_bytes()
    (folder / "truncated.flac").write_bytes(whole[: len(whole) // 2])
    write_audio(folder / "whole.flac", "flac", speechlike(2)).rename(folder / "really flac.mp3")
    write_audio(folder / "eight channels.wav", "pcm_s16le", speechlike(2), layout="7.1")
    write_audio(folder / "8 kHz.wav", "pcm_s16le", speechlike(2, 8_000), rate_hz=8_000)
    write_audio(folder / "192 kHz.flac", "flac", speechlike(2, 192_000), rate_hz=192_000)
    write_audio(folder / "24 bit.wav", "pcm_s24le", speechlike(2, 48_000), rate_hz=48_000)
    write_audio(folder / "float.wav", "pcm_f32le", speechlike(2, 44_100), rate_hz=44_100)
    write_video(folder / "uneven frames.mp4", seconds=3)
    write_video(folder / "late sound.mkv", seconds=6, audio_codec="libopus", audio_start_s=2)
    write_video(folder / "hole.mkv", seconds=6, audio_codec="libopus", hole_s=(3, 5))
    write_wav(folder / "tenth of a second.wav", speechlike(0.1))
    for name in ("ünïcödé 録音.wav", "-v leading dash.wav", "http:talk.wav", "%03d [x].wav"):
        write_wav(folder / name, speechlike(2))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recordings")
    make_bad(folder)
    make_odd(folder)
    return folder


@pytest.fixture(scope="module")
def outcomes(folder: Path) -> dict[str, dict[str, Any]]:
    """Everything in one run, the bad among the odd, written to ``out``."""
    done = run(*FAKE, "--json", "--output-dir", "out", "--", *BAD, *ODD, cwd=folder)
    assert done.returncode == 1
    return results(done)


@pytest.mark.parametrize("source", BAD)
def test_a_recording_that_cannot_be_used_has_an_error_with_a_code_and_a_hint(
    outcomes: dict[str, dict[str, Any]], source: str
) -> None:
    outcome = outcomes[source]
    assert outcome["status"] == "failed"
    assert outcome["error"]["code"] == BAD[source]
    assert source in outcome["error"]["message"] and "\n" not in outcome["error"]["message"]
    assert outcome["error"]["hint"]
    assert outcome["transcript"] is None and outcome["outputs"] == []


@pytest.mark.parametrize("source", ODD)
def test_an_odd_recording_among_bad_ones_is_transcribed(
    folder: Path, outcomes: dict[str, dict[str, Any]], source: str
) -> None:
    seconds, warning = ODD[source]
    outcome = outcomes[source]
    assert (outcome["status"], outcome["error"]) == ("completed", None)
    assert outcome["transcript"]["duration"] == pytest.approx(seconds, abs=max(0.1, 0.1 * seconds))
    assert outcome["transcript"]["segments"] or seconds < 1
    warnings = {notice["code"] for notice in outcome["transcript"]["warnings"]}
    assert warning in warnings if warning else not warnings & {"source_damaged", "gap_filled"}
    (written,) = outcome["outputs"]
    assert (folder / written).read_text(encoding="utf-8").startswith("word" if seconds > 1 else "")


def test_only_what_was_transcribed_is_written(
    folder: Path, outcomes: dict[str, dict[str, Any]]
) -> None:
    written = sorted(Path(outcomes[source]["outputs"][0]).name for source in ODD)
    assert left_in(folder / "out") == written


def test_people_get_a_line_and_a_hint_for_every_bad_recording(folder: Path) -> None:
    done = run(*FAKE, "--", *BAD, cwd=folder)
    assert done.returncode == 1
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["error", "hint"] * len(BAD)
    for source in BAD:
        assert sum(f"{source}" in line for line in lines[::2]) >= 1


def test_a_typing_error_is_told_before_any_model_is_looked_for(tmp_path: Path) -> None:
    done = run("transcribe", "talk.wav", "--model", "tiny", cwd=tmp_path)
    assert (done.returncode, done.stderr.splitlines()[0]) == (1, "error: talk.wav: no such file")


def test_a_bad_file_in_a_directory_costs_the_others_nothing(tmp_path: Path) -> None:
    talks = tmp_path / "talks"
    (talks / "more").mkdir(parents=True)
    write_wav(talks / "a.wav", speechlike(1))
    write_wav(talks / "more" / "c.WAV", speechlike(1))
    write_wav(talks / ".hidden.wav", speechlike(1))
    (talks / "b.mp3").write_text("no sound")
    (talks / "notes.txt").write_text("no recording")
    done = run(*FAKE, "talks", "-o", "out", cwd=tmp_path)
    assert done.returncode == 1
    assert left_in(tmp_path / "out") == ["a.txt", "more/c.txt"]
    assert sorted(done.stdout.splitlines()) == ["out/a.txt", "out/more/c.txt"]
    assert done.stderr.count("error: ") == 1 and "b.mp3" in done.stderr


def test_a_result_that_is_there_is_kept_unless_it_may_be_replaced(tmp_path: Path) -> None:
    for name in ("a.wav", "b.wav"):
        write_wav(tmp_path / name, speechlike(1))
    (tmp_path / "a.txt").write_text("old")
    kept = run(*FAKE, "a.wav", "b.wav", "-o", ".", cwd=tmp_path)
    assert kept.returncode == 1
    assert "a.txt exists already" in kept.stderr and "--overwrite" in kept.stderr
    assert (tmp_path / "a.txt").read_text() == "old"
    assert (tmp_path / "b.txt").read_text().startswith("word")
    replaced = run(*FAKE, "a.wav", "-o", ".", "--overwrite", cwd=tmp_path)
    assert (replaced.returncode, replaced.stdout) == (0, "a.txt\n")
    assert (tmp_path / "a.txt").read_text().startswith("word")


def test_two_recordings_of_one_name_are_refused_before_any_work(tmp_path: Path) -> None:
    for place in ("x", "y"):
        (tmp_path / place).mkdir()
        write_wav(tmp_path / place / "a.wav", speechlike(0.2))
    done = run(*FAKE, "x/a.wav", "y/a.wav", "-o", "out", cwd=tmp_path)
    assert done.returncode == 2
    assert "two recordings are both called a.wav" in done.stderr
    assert not (tmp_path / "out").exists()


def test_an_engine_that_breaks_down_is_reported_for_each_recording(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", speechlike(1))
    done = run(*FAKE, "--model", "fake-failing", "a.wav", "-o", "out", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: a.wav: engine fake was asked to fail")
    assert left_in(tmp_path / "out") == []


# --- what the system refuses ----------------------------------------------------------------------


def run_without_privileges(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """As a user whom the modes of files bind. Root is one too without the capabilities to pass them
    by.
    """
    if os.geteuid() != 0:
        return run(*arguments, cwd=cwd)
    passing_by = "-dac_override,-dac_read_search"
    bound = ["setpriv", f"--bounding-set={passing_by}", f"--inh-caps={passing_by}"]
    (cwd / "probe").touch(mode=0)
    if (
        shutil.which("setpriv") is None
        or subprocess.run(
            [*bound, "cat", "probe"], cwd=cwd, capture_output=True, check=False
        ).returncode
        != 1
    ):
        pytest.skip("root cannot be bound here")
    return run(*arguments, cwd=cwd, command=(*bound, *COMMAND))


@POSIX
def test_what_may_not_be_read_is_called_that(tmp_path: Path) -> None:
    write_wav(tmp_path / "secret.wav", speechlike(1)).chmod(0)
    for name, mode in (("closed", 0o000), ("no entry", 0o444)):
        (tmp_path / name).mkdir()
        write_wav(tmp_path / name / "a.wav", speechlike(1))
        (tmp_path / name).chmod(mode)
    sources = ("secret.wav", "closed", "closed/a.wav", "no entry/a.wav")
    try:
        done = run_without_privileges(*FAKE, "--json", *sources, cwd=tmp_path)
    finally:
        for name in ("closed", "no entry"):
            (tmp_path / name).chmod(0o755)
    assert done.returncode == 1
    codes = {source: row["error"]["code"] for source, row in results(done).items()}
    assert codes == dict.fromkeys(sources, "source_unreadable")
    assert done.stderr.count("hint: check its ") == len(sources)


@POSIX
def test_an_output_directory_that_may_not_be_written_is_told_before_the_work(
    tmp_path: Path,
) -> None:
    write_wav(tmp_path / "a.wav", speechlike(1))
    (tmp_path / "out").mkdir(mode=0o555)
    done = run_without_privileges(
        *FAKE, "--model", "fake-failing", "a.wav", "-o", "out", cwd=tmp_path
    )
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "error: cannot write out: Permission denied",
        "hint: choose a directory that you may write to with --output-dir",
    ]


def recordings_of_which_one_is_large(folder: Path) -> list[str]:
    for name, seconds in (("a", 1), ("b", 120), ("c", 1)):
        write_wav(folder / f"{name}.wav", speechlike(seconds))
    return ["a.wav", "b.wav", "c.wav", "--format", "json", "-o", "out"]


@POSIX
def test_a_result_that_grows_too_large_leaves_nothing_and_the_others_are_kept(
    tmp_path: Path,
) -> None:
    import resource

    arguments = recordings_of_which_one_is_large(tmp_path)
    limit = (8_000, 8_000)
    done = run(
        *FAKE,
        *arguments,
        cwd=tmp_path,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit),
    )
    assert done.returncode == 1
    assert (
        "error: b.wav: cannot write out/b.json: File too large" in done.stderr
        and "hint: " in done.stderr
    )
    assert left_in(tmp_path / "out") == ["a.json", "c.json"]


@POSIX
def test_a_disk_that_fills_up_leaves_nothing_half_written_and_the_others_are_kept(
    tmp_path: Path,
) -> None:
    arguments = recordings_of_which_one_is_large(tmp_path)
    (tmp_path / "out").mkdir()
    script = 'mount -t tmpfs -o size=16k none out || exit 99; "$@"; echo "exit code $?"; ls -A out'
    shell = [
        "unshare",
        "--mount",
        "--map-root-user",
        "sh",
        "-c",
        script,
        "sh",
        *COMMAND,
        *FAKE,
        *arguments,
    ]
    if shutil.which("unshare") is None:
        pytest.skip("needs a private mount")
    options: dict[str, Any] = {"env": environment(tmp_path), "capture_output": True, "text": True}
    done = subprocess.run(shell, cwd=tmp_path, timeout=PATIENCE_S, check=False, **options)
    if "exit code" not in done.stdout:
        pytest.skip("needs a private mount")
    assert "error: b.wav: cannot write out/b.json: No space left on device" in done.stderr
    assert "hint: free some space" in done.stderr and "Traceback" not in done.stderr
    assert done.stdout.splitlines() == [
        "out/a.json",
        "out/c.json",
        "exit code 1",
        "a.json",
        "c.json",
    ]


# --- outputs that go away -------------------------------------------------------------------------


def closed_pipe() -> int:
    """The writing end of a pipe that nobody reads, as when ``head`` has seen enough."""
    reading, writing = os.pipe()
    os.close(reading)
    return writing


@POSIX
def test_a_reader_that_goes_away_ends_the_command_without_a_word(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", speechlike(1))
    pipe = closed_pipe()
    for arguments in ([*FAKE, "a.wav", "a.wav"], ["models", "list"]):
        done = run(*arguments, cwd=tmp_path, stdout=pipe)
        assert (done.returncode, done.stderr) == (0, "")
    os.close(pipe)


@POSIX
def test_files_are_written_though_nobody_reads_their_names(tmp_path: Path) -> None:
    for name in ("a.wav", "b.wav"):
        write_wav(tmp_path / name, speechlike(1))
    pipe = closed_pipe()
    done = run(*FAKE, "a.wav", "b.wav", "-o", "out", cwd=tmp_path, stdout=pipe)
    os.close(pipe)
    assert (done.returncode, done.stderr) == (0, "")
    assert left_in(tmp_path / "out") == ["a.txt", "b.txt"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no such device here")
def test_a_full_disk_behind_stdout_is_reported_in_words(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", speechlike(1))
    with Path("/dev/full").open("wb") as full:
        done = run(*FAKE, "a.wav", cwd=tmp_path, stdout=full)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "error: cannot write the result to standard output: No space left on device",
        "hint: write files with --output-dir instead",
    ]


@POSIX
def test_a_closed_stdout_is_reported_in_words_and_a_closed_stderr_hinders_nothing(
    tmp_path: Path,
) -> None:
    write_wav(tmp_path / "a.wav", speechlike(1))

    def shell(redirection: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["sh", "-c", f'"$@" {redirection}', "sh", *COMMAND, *FAKE, *arguments]
        options: dict[str, Any] = {
            "env": environment(tmp_path),
            "capture_output": True,
            "text": True,
        }
        return subprocess.run(command, cwd=tmp_path, timeout=PATIENCE_S, check=False, **options)

    no_stdout = shell(">&-", "a.wav")
    assert no_stdout.returncode == 1
    assert no_stdout.stderr.startswith(
        "error: cannot write the result: standard output is closed\nhint: "
    )
    no_stderr = shell("2>&-", "a.wav", "missing.wav")
    assert no_stderr.returncode == 1
    assert "word0001" in no_stderr.stdout


# --- stopping and long recordings -----------------------------------------------------------------


@POSIX
def test_ctrl_c_keeps_finished_files_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", speechlike(1))
    write_silence(tmp_path / "long.wav", hours=60)  # minutes of work
    command = [*COMMAND, *FAKE[:-1], "a.wav", "long.wav", "-o", "out"]
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=tmp_path, env=environment(tmp_path), **streams) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "out/a.txt\n", (
                "the first is done, the second in work"
            )
            process.send_signal(signal.SIGINT)
            rest, stderr = process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
    assert process.returncode == 130
    assert rest == ""
    assert stderr.splitlines()[-1] == "Interrupted; files already written are kept."
    assert "Traceback" not in stderr and "Exception" not in stderr
    assert left_in(tmp_path / "out") == ["a.txt"]


@POSIX
def test_ctrl_c_while_the_command_starts_ends_it_without_a_traceback(tmp_path: Path) -> None:
    python, *rest = COMMAND
    command = [python, "-X", "importtime", *rest, "transcribe", "a.wav"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment(tmp_path), stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stderr is not None
        seen = next(line for line in child.stderr if "typer" in line)
        child.send_signal(signal.SIGINT)
        stderr = child.stderr.read()
    assert seen and child.returncode in (-signal.SIGINT, 130), "a shell calls both 130"
    assert "Traceback" not in stderr


@slow
def test_twelve_hours_of_silence_are_a_valid_empty_transcript(tmp_path: Path) -> None:
    write_silence(tmp_path / "night.wav", hours=12)
    done = run(*FAKE[:-1], "--json", "night.wav", cwd=tmp_path)
    transcript = results(done)["night.wav"]["transcript"]
    assert done.returncode == 0
    assert (transcript["duration"], transcript["text"]) == (12 * 3600, "")
    assert [notice["code"] for notice in transcript["warnings"]] == ["no_speech"]
