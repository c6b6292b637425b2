"""The command as a user types it: what it prints where, and with which exit code it ends."""

from __future__ import annotations

import difflib
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from command_line import COMMAND, FAKE, SAMPLES, clip, environment, left_in, results, run, write_wav
from local_hub import closed_port
from media import speechlike

from transcribe_mcp.models.hub import ANSWER_S

HUB_LIMIT_S = 5  # the most that a hub out of reach may cost


def words_of(text: str) -> list[str]:
    return re.findall(r"[a-z']+", text.lower())


def agreement(heard: str, said: Path) -> float:
    truth = words_of(said.read_text(encoding="utf-8"))
    return difflib.SequenceMatcher(None, truth, words_of(heard), autojunk=False).ratio()


@pytest.fixture(scope="module")
def talks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two short recordings; the command runs beside them."""
    folder = tmp_path_factory.mktemp("talks")
    write_wav(folder / "a.wav", speechlike(8))
    write_wav(folder / "b.wav", speechlike(3))
    return folder


# --- the quick start ------------------------------------------------------------------------------


def test_the_quick_start_prints_the_words_and_says_how_to_get_a_better_model(
    tmp_path: Path,
) -> None:
    done = run("transcribe", SAMPLES / "welcome.flac", "--offline", cwd=tmp_path)
    assert done.returncode == 0
    assert agreement(done.stdout, SAMPLES / "welcome.txt") > 0.9
    assert done.stdout.startswith("Welcome, this program") and done.stdout.rstrip().endswith(
        "useful."
    )
    (warning,) = done.stderr.splitlines()
    assert warning.startswith("warning: ")
    assert "supports English only" in warning and "transcribe-mcp models pull" in warning


@pytest.fixture
def silent_hub() -> Iterator[socket.socket]:
    """Connections are taken by the system, and nobody ever answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        yield listener


def said_by_fallback(folder: Path, **variables: str) -> str:
    arguments = ("transcribe", "a.wav", "--format", "json")
    done = run(*arguments, cwd=folder, env=environment(folder, **variables))
    assert done.returncode == 0, done.stderr
    codes = [notice["code"] for notice in json.loads(done.stdout)["warnings"]]
    assert codes.count("fallback_model") == 1, "said once"
    return done.stderr


def taken(listener: socket.socket) -> int:
    """How many connections wait to be answered; they are closed."""
    count = 0
    with suppress(BlockingIOError):
        while True:
            listener.accept()[0].close()
            count += 1
    return count


def test_a_hub_that_cannot_be_reached_costs_at_most_five_seconds(
    tmp_path: Path, silent_hub: socket.socket
) -> None:
    clip(tmp_path / "a.wav", 0.6)
    silent = f"http://127.0.0.1:{silent_hub.getsockname()[1]}"
    refused = f"http://127.0.0.1:{closed_port()}"
    assert "offline" in said_by_fallback(tmp_path, HF_ENDPOINT=silent)
    assert taken(silent_hub) == 0  # HF_HUB_OFFLINE: not one call
    for endpoint, reason in ((refused, "refused"), (silent, f"no answer within {ANSWER_S:g} s")):
        said = said_by_fallback(tmp_path, HF_ENDPOINT=endpoint, HF_HUB_OFFLINE="0")
        assert endpoint in said and reason in said
    assert taken(silent_hub) * ANSWER_S <= HUB_LIMIT_S


# --- outputs --------------------------------------------------------------------------------------


def test_text_goes_to_stdout_and_several_sources_have_headings(talks: Path) -> None:
    one = run(*FAKE, "a.wav", "--quiet", cwd=talks)
    assert one.returncode == 0 and one.stderr == ""
    assert one.stdout.startswith("word0000") and "==>" not in one.stdout
    both = run(*FAKE, "*.wav", "--quiet", cwd=talks)
    assert both.stdout.startswith(f"==> a.wav <==\n{one.stdout}==> b.wav <==\nword0000")


def test_warnings_name_their_recording_where_there_are_several(talks: Path, tmp_path: Path) -> None:
    silence = write_wav(tmp_path / "silence.wav", speechlike(1) * 0)
    alone = run("transcribe", "--engine", "fake", silence, cwd=talks)
    assert (alone.returncode, alone.stdout) == (0, "")
    assert alone.stderr == "warning: no speech was found; the recording is silent\n"
    among = run("transcribe", "--engine", "fake", silence, "b.wav", cwd=talks)
    assert f"warning: {silence}: no speech was found; the recording is silent\n" in among.stderr


def test_an_output_directory_gets_a_file_for_each_recording_and_format(
    talks: Path, tmp_path: Path
) -> None:
    formats = ("txt", "timed", "srt", "vtt", "tsv", "json", "md")
    arguments = (
        "--format",
        ", ".join(formats),
        "--max-line-chars",
        "18",
        "--max-lines",
        "1",
        "--highlight-words",
    )
    done = run(*FAKE, "a.wav", "b.wav", *arguments, "-o", tmp_path / "new" / "out", cwd=talks)
    assert done.returncode == 0
    suffixes = ["timed.txt" if name == "timed" else name for name in formats]
    expected = sorted(f"{name}.{suffix}" for name in "ab" for suffix in suffixes)
    assert left_in(tmp_path) == [f"new/out/{name}" for name in expected]
    assert sorted(map(Path, done.stdout.splitlines())) == [
        tmp_path / "new" / "out" / name for name in expected
    ]
    for name in ("a.srt", "a.vtt"):
        lines = (tmp_path / "new" / "out" / name).read_text(encoding="utf-8").splitlines()
        cues = [re.sub(r"<[^>]*>", "", line) for line in lines if "word" in line]
        assert len(cues) >= 8 and max(map(len, cues)) <= 18, "the subtitle rules arrive"
    assert re.search(
        r"<\d\d:\d\d:\d\d\.\d{3}>", (tmp_path / "new" / "out" / "a.vtt").read_text(encoding="utf-8")
    )


def test_json_is_a_line_for_each_source_and_honest_about_how_it_was_made(talks: Path) -> None:
    done = run(*FAKE, "a.wav", "missing.wav", "--json", cwd=talks)
    assert done.returncode == 1
    found = results(done)
    assert found["missing.wav"]["status"] == "failed"
    assert found["missing.wav"]["error"].keys() == {"code", "message", "hint"}
    transcript = found["a.wav"]["transcript"]
    made_by = {
        name: transcript[name] for name in ("engine", "model", "device", "compute_type", "task")
    }
    assert made_by == {
        "engine": "fake", "model": "fake", "device": "cpu", "compute_type": "none",
        "task": "transcribe",
    }  # fmt: skip
    assert transcript["timings"]["total"] > 0 and transcript["realtime_factor"] > 0
    assert transcript["duration"] == 8
    assert transcript["segments"][0]["words"][0]["word"].strip() == "word0000"


def test_words_can_be_left_out(talks: Path) -> None:
    done = run(*FAKE, "b.wav", "--no-words", "--format", "json", cwd=talks)
    segments = json.loads(done.stdout)["segments"]
    assert segments and not any(segment.get("words") for segment in segments)


@pytest.mark.skipif(sys.platform == "win32", reason="locales as on POSIX")
def test_results_are_utf_8_in_any_locale(tmp_path: Path) -> None:
    write_wav(tmp_path / "ünï 録音.wav", speechlike(1))
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    for variables in (ascii_only, {"PYTHONIOENCODING": "latin-1"}):
        env = environment(tmp_path, **variables)
        done = run(*FAKE, "ünï 録音.wav", "-o", "out", "--overwrite", cwd=tmp_path, env=env)
        assert done.returncode == 0, done.stderr
        assert left_in(tmp_path / "out") == ["ünï 録音.txt"]
    assert "録音" in done.stdout
    text = run(
        *FAKE, "ünï 録音.wav", "--format", "md", cwd=tmp_path, env=environment(tmp_path, LC_ALL="C")
    )
    assert "ünï 録音" in text.stdout
    assert (
        run(
            "transcribe", "--help", cwd=tmp_path, env=environment(tmp_path, **ascii_only)
        ).returncode
        == 0
    )


# --- wrong usage ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["--format", "strt"], "no output format 'strt'", "did you mean srt?"),
        (["--format", "txt,srt"], "2 formats for one output", "--output-dir"),
        (["--format", ","], "--format is ','", "txt, timed, srt"),
        (["--engine", "fak"], "no engine 'fak'", "ctranslate2"),
        (["--engine", "ctranslate2", "--model", "lage-v3"], "no model 'lage-v3'", "large-v3"),
        (["--model", "nothing"], "engine fake has no model 'nothing'", "choose fake"),
        (["--language", "germn"], "no language 'germn'", "german"),
        (["--language", "fr"], "does not support French", "multilingual"),
        (["--multilingual", "--language", "de"], "multilingual contradicts", "auto"),
        (["--task", "summarise"], "no task 'summarise'", "transcribe or translate"),
        (["--temperature", "0;1"], "--temperature is '0;1'", "0,0.4,0.8"),
        (["--temperature", "0,1.5"], "1.5", "between 0 and 1"),
        (["--vocabulary", "gone.txt"], "no vocabulary file gone.txt", "UTF-8"),
        (["--vocabulary", "a.wav"], "vocabulary file a.wav cannot be read", "UTF-8"),
        (["--max-cue-s", "0"], "max_cue_s is 0", "at least"),
        (["--device", "gpu"], "'gpu'", "device"),
    ],
)
def test_wrong_usage_is_a_line_with_a_hint_and_nothing_is_done(
    talks: Path, arguments: list[str], message: str, hint: str
) -> None:
    done = run(*FAKE, "a.wav", *arguments, cwd=talks)
    assert (done.returncode, done.stdout) == (2, "")
    said, way_out = done.stderr.splitlines()
    assert said.startswith("error: ") and message in said
    assert way_out.startswith("hint: ") and hint in way_out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["transcrib"], "transcribe"),
        (["transcribe"], "SOURCE"),
        (["transcribe", "a.wav", "--fromat", "srt"], "--format"),
        (["transcribe", "a.wav", "--beam-size", "0"], "--beam-size"),
    ],
)
def test_what_is_no_command_and_no_option_is_wrong_usage_too(
    talks: Path, arguments: list[str], message: str
) -> None:
    done = run(*arguments, cwd=talks)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr


def test_a_setting_in_the_environment_that_cannot_be_is_named(talks: Path) -> None:
    env = environment(talks, TRANSCRIBE_MCP_THREADS="many")
    done = run(*FAKE, "a.wav", cwd=talks, env=env)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: the variable TRANSCRIBE_MCP_THREADS is 'many': ")
    assert "\nhint: " in done.stderr


# --- models ---------------------------------------------------------------------------------------


def test_models_are_listed_for_people_and_for_programs(tmp_path: Path) -> None:
    rows = json.loads(run("models", "list", "--json", cwd=tmp_path).stdout)
    tiny = next(row for row in rows if row["name"] == "tiny")
    assert (tiny["repo"], tiny["path"], tiny["bytes_on_disk"]) == (
        "openai/whisper-tiny",
        None,
        None,
    )
    table = run("models", "list", cwd=tmp_path)
    assert table.returncode == 0
    heading, *lines = table.stdout.splitlines()
    assert heading.split()[0] == "model"
    assert [line.split()[0] for line in lines] == [row["name"] for row in rows]


@pytest.mark.parametrize(
    ("arguments", "code", "message", "hint"),
    [
        (["path", "tiny"], 1, "tiny is not downloaded", "transcribe-mcp models pull tiny"),
        (["rm", "tiny"], 1, "tiny is not downloaded", "transcribe-mcp models list"),
        (["path", "tinny"], 2, "no model 'tinny'", "did you mean tiny"),
        (["rm", "."], 2, "directory of your own", "delete it yourself"),
        (["pull", "tiny"], 1, "offline mode is on", "transcribe-mcp models pull tiny"),
    ],
)
def test_a_model_that_is_not_here_is_an_error_with_the_command_to_type(
    tmp_path: Path, arguments: list[str], code: int, message: str, hint: str
) -> None:
    done = run("models", *arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (code, "")
    said, way_out = done.stderr.splitlines()
    assert said.startswith("error: ") and message in said
    assert way_out.startswith("hint: ") and hint in way_out


# --- progress -------------------------------------------------------------------------------------


def on_a_terminal(folder: Path, *arguments: str, stdout_too: bool = False) -> tuple[str, str]:
    """What a terminal as stderr was sent, and what stdout got."""
    import pty

    master, slave = pty.openpty()
    env = environment(folder, TERM="xterm", COLUMNS="100")
    command = [*COMMAND, *FAKE, *arguments]
    stdout = slave if stdout_too else subprocess.PIPE
    with subprocess.Popen(
        command, cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=stdout, stderr=slave
    ) as child:
        os.close(slave)
        shown = b"".join(iter(lambda: _read(master), b""))
        text = child.stdout.read() if child.stdout else b""
    os.close(master)
    assert child.returncode == 0
    return shown.decode(), text.decode()


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65_536)
    except OSError:  # how Linux says that the other end is closed
        return b""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_bars_are_drawn_on_a_terminal_and_stdout_stays_clean(talks: Path) -> None:
    shown, text = on_a_terminal(talks, "a.wav", "b.wav")
    for stage in ("1/2 reading", "1/2 finding speech", "2/2 transcribing", "100 %"):
        assert stage in shown
    assert "\x1b" not in text and text == run(*FAKE, "a.wav", "b.wav", cwd=talks).stdout


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_bars_are_gone_before_the_text_is_written_beside_them(talks: Path) -> None:
    shown, _ = on_a_terminal(talks, "b.wav", stdout_too=True)
    visible_again, erase_line = "\x1b[?25h", "\x1b[2K"
    before, _, after = shown.rpartition("word0000")
    assert before.rindex(visible_again) > before.rindex("reading")
    assert before.endswith((erase_line, "\r", "\n"))
    assert "\x1b" not in after


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_text_appears_below_the_bars_and_one_line_sums_up(talks: Path) -> None:
    shown, _ = on_a_terminal(talks, "a.wav", "b.wav", "--format", "srt", "--output-dir", "out")

    bars, _, summary = shown.rpartition("Transcribed 2 recordings, ")
    assert "word0000" in bars
    assert re.fullmatch(
        r"[\d.]+ s in [\d.]+ s \([\d.e+]+ × real time\) with \S+ on cpu\.", summary.strip()
    )


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_quiet_draws_nothing_on_a_terminal(talks: Path) -> None:
    assert on_a_terminal(talks, "b.wav", "--quiet")[0] == ""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
@pytest.mark.parametrize("arguments", [(), ("--output-dir", "out")])
def test_a_name_cannot_control_a_terminal_and_stays_whole_for_programs(
    talks: Path, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    name = "a\x1b]0;title\x07.wav"
    for copy in (name, "b.wav"):
        (tmp_path / copy).write_bytes((talks / "b.wav").read_bytes())
    shown, _ = on_a_terminal(tmp_path, name, "b.wav", "--quiet", *arguments, stdout_too=True)
    assert r"a\x1b]0;title\x07" in shown
    assert "\x1b]0" not in shown
    piped = run(*FAKE, name, "b.wav", "--overwrite", *arguments, cwd=tmp_path).stdout
    assert "a\x1b]0;title\x07" in piped
