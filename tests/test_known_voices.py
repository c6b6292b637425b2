"""Known voices from end to end: clips are added with consent, and speakers get names."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import COMMAND, SAMPLES, environment, run
from job_places import Place, fake_options, finished, jobs, place, request
from mcp_places import calling, home, stdio
from media import wav_bytes
from numpy.typing import NDArray
from whisper_nano import CONVERSATION

from transcribe_mcp import EngineSpec, Options, Transcript, load_engine, transcribe
from transcribe_mcp.errors import (
    OutputExistsError,
    UnknownNameError,
    UsageError,
    VoiceSampleError,
)
from transcribe_mcp.frontends.mcp.hints import for_assistant
from transcribe_mcp.media.decode import SAMPLE_RATE_HZ, read
from transcribe_mcp.pipeline.enrolment import print_of_clip
from transcribe_mcp.service import voices as service
from transcribe_mcp.service.models import Job, SpeakerChange
from transcribe_mcp.service.uploads import Upload, make_folder, submit_upload
from transcribe_mcp.speakers.clustering import unit
from transcribe_mcp.speakers.evidence import N_EMBEDDING
from transcribe_mcp.speakers.voice_store import FILE_NAME, VoiceStore
from transcribe_mcp.speakers.voices import (
    MIN_SPEECH_S,
    Kind,
)

THREE_VOICES = CONVERSATION / "three_voices.opus"
HALF_S = 58.0
Array = NDArray[np.float32]


# --- clips ----------------------------------------------------------------------------------------


def spoken(*names: str) -> Array:
    """Samples of the files, one after the other."""
    return np.concatenate([read(SAMPLES / f"{name}.flac") for name in names])


def write_wav(path: Path, channels: Sequence[Array], rate_hz: int = SAMPLE_RATE_HZ) -> Path:
    n = max(map(len, channels))
    planes = np.stack([np.pad(one, (0, n - len(one))) for one in channels], axis=1)
    pcm = (np.clip(planes, -1, 1) * 32767).astype("<i2").tobytes()
    path.write_bytes(wav_bytes(pcm, rate_hz=rate_hz, channels=len(channels), bits=16))
    return path


@pytest.fixture(scope="module")
def persons(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Clips of the persons of a conversation, 16 to 18 s each, from its first half; and the rest of
    it, with three persons, as ``rest``.
    """
    folder = tmp_path_factory.mktemp("persons")
    (truth,) = json.loads((CONVERSATION / "truth.json").read_text(encoding="utf-8"))
    samples = read(THREE_VOICES)
    parts: dict[str, list[Array]] = {}
    for sentence in truth["segments"]:
        if sentence["end"] < HALF_S:
            edges = (round(sentence[name] * SAMPLE_RATE_HZ) for name in ("start", "end"))
            parts.setdefault(sentence["speaker"], []).append(samples[slice(*edges)])
    parts["rest"] = [samples[round(HALF_S * SAMPLE_RATE_HZ) :]]
    return {
        name: write_wav(folder / f"{name}.wav", [np.concatenate(own)])
        for name, own in parts.items()
    }


def test_a_clip_of_one_person_gives_a_print_of_its_kind(
    persons: dict[str, Path], tmp_path: Path
) -> None:
    found = print_of_clip(persons["anna"], Options())
    samples = read(persons["anna"])
    spectrum = np.fft.rfft(samples)
    spectrum[round(3400 / 8000 * len(spectrum)) :] = 0
    narrow = np.fft.irfft(spectrum, len(samples)).astype(np.float32)
    call = print_of_clip(write_wav(tmp_path / "call.wav", [narrow[::2]], 8000), Options())

    assert found.kind is Kind.WIDEBAND and found.seconds >= MIN_SPEECH_S
    assert np.linalg.norm(found.vector) == pytest.approx(1, abs=1e-5)
    assert call.kind is Kind.TELEPHONE


def test_a_clip_without_10_s_of_one_voice_is_refused(
    persons: dict[str, Path], tmp_path: Path
) -> None:
    anna = read(persons["anna"])
    before = np.zeros(len(anna), np.float32)
    short = write_wav(tmp_path / "short.wav", [anna[: 6 * SAMPLE_RATE_HZ]])
    ben = np.concatenate([before, read(persons["ben"])])
    stereo = write_wav(tmp_path / "stereo.wav", [anna, ben])
    cases = {
        write_wav(tmp_path / "silence.wav", [before]): "no speech was found",
        short: "only [456].. s of clean speech",
        stereo: "has 2 speakers",
        SAMPLES / "dialogue.flac": "has 2 speakers",
    }

    for path, message in cases.items():
        with pytest.raises(VoiceSampleError, match=message) as caught:
            print_of_clip(path, Options())
        assert caught.value.hint
    assert print_of_clip(stereo, Options(channel="left")).seconds >= MIN_SPEECH_S
    with pytest.raises(UsageError, match="2 channels"):
        print_of_clip(stereo, Options(channel="split"))


# --- naming ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def here(persons: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A data directory that knows Anna and Ben; the conversation has Carol too."""
    with place(tmp_path_factory.mktemp("known")) as made:
        for name in ("anna", "ben"):
            service.add_voice(name.title(), persons[name], Options())
        yield made


def names_of(transcript: Transcript) -> list[str]:
    return [speaker.id for speaker in transcript.speakers]


def codes_of(transcript: Transcript) -> set[str]:
    return {notice.code for notice in transcript.warnings}


@pytest.fixture(scope="module")
def named(here: Place, persons: dict[str, Path]) -> Transcript:
    with closing(load_engine(EngineSpec("fake"))) as engine:
        return transcribe(persons["rest"], engine, Options(voices="all"))


def test_known_voices_get_their_names_and_others_keep_their_labels(named: Transcript) -> None:
    assert set(names_of(named)) > {"Anna", "Ben"}
    (other,) = set(names_of(named)) - {"Anna", "Ben"}
    assert other == f"Speaker {names_of(named).index(other) + 1}"
    assert {word.speaker for word in named.words} == {"Anna", "Ben", other}
    assert "voices_not_compared" not in {notice.code for notice in named.warnings}


def test_a_transcript_says_that_no_known_voice_is_stored(
    persons: dict[str, Path], tmp_path: Path
) -> None:
    with place(tmp_path), closing(load_engine(EngineSpec("fake"))) as engine:
        transcript = transcribe(persons["anna"], engine, Options(voices="all"))
    assert "voices_not_compared" in codes_of(transcript)


def test_no_print_and_no_score_is_in_a_result(here: Place, named: Transcript) -> None:
    text = named.dumps()
    stored = json.loads((here.data_dir / FILE_NAME).read_text())

    for voice in stored["voices"]:
        for one in voice["prints"]:
            assert one["id"] not in text
            assert not any(str(value) in text for value in one["vector"] if len(str(value)) > 7)
    assert "cosine" not in text and "score" not in text


def test_unknown_names_are_an_error_before_any_work(here: Place, persons: dict[str, Path]) -> None:
    with (
        closing(load_engine(EngineSpec("fake"))) as engine,
        pytest.raises(UnknownNameError, match="no known voice 'Zoe'") as caught,
    ):
        transcribe(persons["rest"], engine, Options(voices="Anna,Zoe"))
    assert "Ben" in caught.value.hint
    with pytest.raises(UnknownNameError, match="no known voice 'Zoe'"):
        jobs.submit(request(persons["rest"], fake_options(voices="Zoe")))


@pytest.fixture(scope="module")
def job(here: Place, persons: dict[str, Path]) -> Job:
    wanted = fake_options(voices="Anna, ben")
    return finished(jobs.submit(request(persons["rest"], wanted)).job_id)


def test_a_job_names_known_voices_and_finds_them_anew_as_long_as_they_are_stored(
    here: Place, persons: dict[str, Path], named: Transcript, job: Job
) -> None:
    both = names_of(named)
    assert names_of(jobs.get_transcript(job.job_id)) == both

    def again(**change: Any) -> list[str]:
        found = jobs.change_speakers(job.job_id, SpeakerChange(Options(diarize=True), **change))
        return names_of(found)

    labels = ["Speaker 1", "Speaker 2", "Speaker 3"]
    anna_alone = [labels[i] if name == "Ben" else name for i, name in enumerate(both)]
    assert again() == both
    assert again(voices="none") == labels
    assert again(voices="Anna") == anna_alone
    with pytest.raises(UnknownNameError):
        again(voices="Zoe")
    same = jobs.submit(request(persons["rest"], fake_options(voices="all")))
    assert same.job_id == job.job_id
    stored = VoiceStore(here.data_dir)
    prints = service.known_prints(here.data_dir, "all")
    ben = stored.remove("Ben")
    try:
        assert again() == anna_alone
        assert service.known_prints(here.data_dir, "all") != prints
    finally:
        stored.add("Ben", ben.prints[0])
    assert "Anna" not in here.log() and "Ben" not in here.log()


def test_a_voice_that_is_only_similar_is_a_warning_until_the_speaker_is_named(
    here: Place, job: Job
) -> None:
    stored = VoiceStore(here.data_dir)
    anna = stored.remove("Anna").prints[0]
    other = unit(np.random.default_rng(0).standard_normal(N_EMBEDDING).astype(np.float32))
    stored.add("Anna", replace(anna, vector=unit(anna.vector + 0.75 * other)))
    try:
        found = jobs.change_speakers(job.job_id, SpeakerChange(Options(diarize=True)))
    finally:
        stored.remove("Anna")
        stored.add("Anna", anna)

    assert "Anna" not in names_of(found)
    (doubt,) = (each.message for each in found.warnings if each.code == "voice_uncertain")
    label = doubt.split(" may be Anna; ")[0]
    assert label in names_of(found)
    assert f'jobs speakers JOB --rename "{label}=Anna"' in doubt
    assert f'name_speakers with names "{label}=Anna"' in for_assistant(doubt)
    renamed = jobs.change_speakers(job.job_id, SpeakerChange(names={label: "Anna"}))
    assert "voice_uncertain" not in {each.code for each in renamed.warnings}
    assert "voice_uncertain" not in {each.code for each in jobs.get_job(job.job_id).warnings}


# --- a shell and an assistant ---------------------------------------------------------------------


def shell(here: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    variables = environment(here, TRANSCRIBE_MCP_DATA_DIR=str(here / "data"))
    return run(*arguments, cwd=here, env=variables)


def asked(here: Path, answer: str, *arguments: str | Path) -> tuple[int, str]:
    """A command at a terminal, whose question gets this answer: its exit code and what it shows."""
    import pty  # not on Windows

    ours, theirs = pty.openpty()
    variables = environment(here, TRANSCRIBE_MCP_DATA_DIR=str(here / "data"))
    line = [*COMMAND, *map(str, arguments)]
    with subprocess.Popen(
        line, stdin=theirs, stdout=subprocess.PIPE, stderr=theirs, cwd=here, env=variables
    ) as child:
        os.close(theirs)
        os.write(ours, f"{answer}\n".encode())
        assert child.stdout is not None
        shown = child.stdout.read().decode()
        code = child.wait()
    shown += os.read(ours, 65_536).decode(errors="replace")
    os.close(ours)
    return code, shown


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
def test_a_voice_is_added_only_with_consent(persons: dict[str, Path], tmp_path: Path) -> None:
    refused = shell(tmp_path, "voices", "add", "Anna", persons["anna"])
    assert refused.returncode == 2
    assert "biometric data" in refused.stderr and "--yes" in refused.stderr

    code, shown = asked(tmp_path, "n", "voices", "add", "Anna", persons["anna"])
    assert code == 1 and "Has Anna agreed" in shown
    assert not (tmp_path / "data" / FILE_NAME).exists()

    code, shown = asked(tmp_path, "y", "voices", "add", "Anna", persons["anna"])
    assert code == 0 and "wideband; Anna has 1 print" in shown


def test_a_shell_lists_exports_and_removes_voices(persons: dict[str, Path], tmp_path: Path) -> None:
    added = shell(tmp_path, "voices", "add", "Anna", persons["anna"], "--yes")
    assert "s of speech, wideband; Anna has 1 print (1 wideband)" in added.stdout
    (row,) = map(json.loads, shell(tmp_path, "voices", "list", "--json").stdout.splitlines())
    assert (row["name"], row["wideband"], row["telephone"], row["old"]) == ("Anna", 1, 0, 0)

    exported = json.loads(shell(tmp_path, "voices", "export").stdout)
    (voice,) = exported["voices"]
    assert voice["name"] == "Anna" and len(voice["prints"][0]["vector"]) == N_EMBEDDING
    target = tmp_path / "anna.json"
    assert shell(tmp_path, "voices", "export", "anna", "--output", target).returncode == 0
    assert json.loads(target.read_text()) == exported
    again = shell(tmp_path, "voices", "export", "--output", target)
    assert again.returncode == 1 and "exists already" in again.stderr
    if os.name == "posix":
        assert stat.S_IMODE(target.stat().st_mode) == 0o600

    gone = shell(tmp_path, "voices", "remove", "ANNA")
    assert gone.returncode == 0 and "transcripts keep the name" in gone.stderr
    assert "no known voices" in shell(tmp_path, "voices", "list").stderr
    assert shell(tmp_path, "voices", "remove", "Anna").returncode == 2


def test_an_assistant_uses_known_voices_only_where_the_user_allows_it(
    persons: dict[str, Path], tmp_path: Path
) -> None:
    with home(tmp_path / "home", START_WORKERS="0") as made:
        source = str(shutil.copy(persons["rest"], made.root))
        VoiceStore(made.data).add("Anna", print_of_clip(persons["anna"], Options()))
        with calling(stdio(made)) as caller:
            schemas = {
                tool.name: tool.input_schema
                for tool in caller.portal.call(caller.client.list_tools).tools
            }
            assert "voices" not in json.dumps(schemas)
            refusal = caller.refusal("transcribe_audio", source=source, voices="all")
            assert "TRANSCRIBE_MCP_ALLOW_VOICES" in refusal["hint"]
            assert caller.refusal("batch_transcribe", sources=[source], voices="Anna")
        with calling(stdio(made, "--allow-voices")) as caller:
            schemas = {
                tool.name: tool.input_schema
                for tool in caller.portal.call(caller.client.list_tools).tools
            }
            assert "voices" in schemas["transcribe_audio"]["properties"]
            unknown = caller.refusal("transcribe_audio", source=source, voices="Zoe")
            assert unknown["code"] == "unknown_name"
            answer = caller.answer("transcribe_audio", source=source, voices="Anna", wait_s=0)
            assert answer["status"] == "queued"


def test_the_export_is_refused_where_it_cannot_be_written(
    persons: dict[str, Path], here: Place, tmp_path: Path
) -> None:
    existing = tmp_path / "there.json"
    existing.write_text("mine")
    with pytest.raises(OutputExistsError):
        service.export_voices("Anna", existing)
    assert existing.read_text() == "mine"


# --- clips of a request ---------------------------------------------------------------------------


def heard_by(clips: dict[str, bytes], recording: Path, here: Place) -> Job:
    """The job of an upload with clips of persons, once it has ended."""
    sent = make_folder(here.data_dir) / "new.wav"
    shutil.copy(recording, sent)
    references = tuple(f"{name}={sha256(clip).hexdigest()}" for name, clip in clips.items())
    wanted = fake_options(references=references, diarize=True)
    upload = Upload(sent, sha256(sent.read_bytes()).hexdigest(), ".wav")
    job = submit_upload(jobs, upload, request(sent, wanted), list(clips.values()))
    return finished(job.job_id)


def test_a_request_names_persons_by_short_clips_and_stores_no_voice(
    here: Place, persons: dict[str, Path], tmp_path: Path
) -> None:
    before = VoiceStore(here.data_dir).voices()
    clips = {}
    for name in ("carol", "ben"):
        short = write_wav(tmp_path / f"{name}.wav", [read(persons[name])[: 7 * SAMPLE_RATE_HZ]])
        clips[name.title()] = short.read_bytes()
    job = heard_by(clips, persons["rest"], here)

    found = names_of(jobs.get_transcript(job.job_id))
    assert len(found) == 3 and {"Ben", "Carol"} < set(found)
    assert [repr(voice) for voice in VoiceStore(here.data_dir).voices()] == list(map(repr, before))


def test_a_clip_that_cannot_be_used_is_named(
    here: Place, persons: dict[str, Path], tmp_path: Path
) -> None:
    silent = write_wav(tmp_path / "a.wav", [np.zeros(4 * SAMPLE_RATE_HZ, np.float32)]).read_bytes()
    cases = {b"no recording": "cannot be used", silent: "no clean speech"}
    cases[persons["anna"].read_bytes()] = "s long"
    for clip, message in cases.items():
        job = heard_by({"Anna": clip}, persons["ben"], here)
        assert job.error is not None and job.error.code == "voice_sample"
        assert "Anna" in job.error.message and message in job.error.message and job.error.hint
