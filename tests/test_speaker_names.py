"""Speakers of finished transcripts: named, merged and found anew without the recording."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import subprocess
import wave
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from command_line import environment, run
from job_places import Place, end_workers, fake_options, finished, fresh, jobs, place, request
from mcp_places import Caller, Home, calling, home, stdio
from media import speechlike
from postgres import place_on
from whisper_nano import CONVERSATION

from transcribe_mcp import Options, Transcript
from transcribe_mcp.errors import JobNotFoundError, JobStateError, UnknownNameError, UsageError
from transcribe_mcp.service.models import SpeakerChange

THREE = ["Speaker 1", "Speaker 2", "Speaker 3"]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def here(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    with place_on(request.param, tmp_path_factory.mktemp("speakers")) as made:
        yield made


@pytest.fixture(scope="module")
def job_id(here: Place, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A job whose recording is gone."""
    recording = tmp_path_factory.mktemp("recordings") / "three.opus"
    shutil.copy(CONVERSATION / "three_voices.opus", recording)
    job = finished(jobs.submit(request(recording, fake_options(diarize=True))).job_id)
    recording.unlink()
    return job.job_id


def names(transcript: Transcript) -> list[str]:
    return [speaker.id for speaker in transcript.speakers]


def again(job_id: str, **options: object) -> Transcript:
    options = options or {"diarize": True}
    return jobs.change_speakers(job_id, SpeakerChange(Options(**options)))  # type: ignore[arg-type]


def changed(job_id: str, *groups: tuple[str, ...], **renamed: str) -> Transcript:
    spelled = {f"Speaker {old[1:]}": new for old, new in renamed.items()}
    return jobs.change_speakers(job_id, SpeakerChange(None, groups, spelled))


def test_speakers_are_found_anew_as_many_as_are_asked_for(job_id: str) -> None:
    first = again(job_id)

    assert names(first) == THREE
    for number in (2, 4):
        found = again(job_id, speakers=number)
        assert len(found.speakers) == number
        assert [w.text for w in found.words] == [w.text for w in first.words]
        assert {w.speaker for w in found.words} == set(names(found))
        assert all(w.speaker == s.speaker for s in found.segments for w in s.words)
    assert len(again(job_id, max_speakers=2).speakers) == 2
    last = again(job_id)
    assert (last.words, last.turns) == (first.words, first.turns)
    assert [s.text for s in last.segments] == [s.text for s in first.segments]


def test_a_number_of_speakers_that_is_not_met_is_said_until_it_is(job_id: str) -> None:
    codes = {n.code for n in again(job_id, min_speakers=300).warnings}

    assert "speaker_count_not_met" in codes
    assert "speaker_count_not_met" in {n.code for n in jobs.get_job(job_id).warnings}
    again(job_id)
    assert "speaker_count_not_met" not in {n.code for n in jobs.get_job(job_id).warnings}


def test_merged_speakers_are_one_and_their_sentences_are_cut_anew(job_id: str) -> None:
    before = again(job_id)
    merged = changed(job_id, ("Speaker 2", "Speaker 3"))

    assert names(merged) == THREE[:2]
    assert merged.text == before.text
    assert len(merged.segments) < len(before.segments)
    seconds = {speaker.id: speaker.seconds for speaker in before.speakers}
    assert merged.speakers[1].seconds >= seconds["Speaker 2"] + seconds["Speaker 3"] - 0.01
    assert jobs.get_transcript(job_id) == merged
    assert len(changed(job_id, ("Speaker 1", "Speaker 2")).speakers) == 1


def test_renamed_speakers_are_found_by_their_names(job_id: str) -> None:
    word = again(job_id).segments[0].text.split()[0]
    renamed = changed(job_id, _1=" Zoë ", _2="Ben")

    assert names(renamed) == ["Zoë", "Ben", "Speaker 3"]
    of_zoe = jobs.search(word, limit=500, speaker="zoë").hits
    assert {hit.speaker for hit in of_zoe} == {"Zoë"}
    assert {hit.start for hit in of_zoe} == {
        s.start for s in renamed.segments if s.speaker == "Zoë" and word in s.text
    }
    assert not jobs.search(word, speaker="Speaker 1").hits
    swapped = jobs.change_speakers(job_id, SpeakerChange(names={"Zoë": "Ben", "Ben": "Zoë"}))
    assert names(swapped) == ["Ben", "Zoë", "Speaker 3"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Speaker 2", "two speakers would be named 'Speaker 2'"),
        (" ", "empty"),
        ("\u200d", "empty"),
        ("x" * 65, "has 65 characters"),
        ("a\nb", "characters that names cannot have"),
        ("a\u202eb", "characters that names cannot have"),
        ("\ud800", "characters that names cannot have"),
        ("a=b", "characters that names cannot have"),
    ],
)
def test_a_name_that_cannot_be_is_refused(job_id: str, name: str, message: str) -> None:
    before = again(job_id)

    with pytest.raises(UsageError, match=message) as caught:
        changed(job_id, _1=name)

    assert caught.value.hint
    assert jobs.get_transcript(job_id) == before


def test_groups_that_cannot_be_merged_are_refused(job_id: str) -> None:
    again(job_id)
    with pytest.raises(UsageError, match="nobody to merge with Speaker 1"):
        changed(job_id, ("Speaker 1",))
    with pytest.raises(UsageError, match="two groups"):
        changed(job_id, ("Speaker 1", "Speaker 2"), ("Speaker 3", "Speaker 2"))
    with pytest.raises(UnknownNameError, match="no speaker 'Speaker 9'") as caught:
        changed(job_id, ("Speaker 1", "Speaker 9"))
    assert "Speaker 3" in caught.value.hint
    with pytest.raises(JobNotFoundError):
        changed("01ABC", _1="Anna")


def test_a_job_that_shares_the_transcript_shows_its_speakers(here: Place, tmp_path: Path) -> None:
    recordings = [tmp_path / "one.opus", tmp_path / "two.opus"]
    for recording in recordings:
        shutil.copy(CONVERSATION / "three_voices.opus", recording)
    wanted = fake_options(diarize=True)
    one, two = (finished(jobs.submit(request(each, wanted)).job_id) for each in recordings)
    again(one.job_id)

    changed(one.job_id, _3="Cleo")
    jobs.delete(one.job_id)

    shown = jobs.get_transcript(two.job_id)
    assert "Cleo" in names(shown)
    assert shown.source == str(recordings[1])
    assert names(again(two.job_id)) == THREE


def test_sentences_without_words_get_the_speaker_heard_for_most_of_them(here: Place) -> None:
    recording = CONVERSATION / "three_voices.opus"
    whole = finished(jobs.submit(request(recording, fake_options(diarize=True))).job_id)
    bare = finished(jobs.submit(request(recording, fake_options(diarize=True, words=False))).job_id)
    with_words = again(whole.job_id)
    before = jobs.get_transcript(bare.job_id)

    found = again(bare.job_id, diarize=True)

    assert not found.words
    assert [(s.start, s.end, s.text) for s in found.segments] == [
        (s.start, s.end, s.text) for s in before.segments
    ]
    same = sum(
        a.speaker == b.speaker for a, b in zip(found.segments, with_words.segments, strict=True)
    )
    assert same >= 0.8 * len(found.segments)
    assert len({s.speaker for s in again(bare.job_id, speakers=2).segments}) == 2


def test_channels_are_renamed_but_not_found_anew(here: Place) -> None:
    recording = CONVERSATION / "three_voices.opus"
    plain = finished(jobs.submit(request(recording, fake_options())).job_id)

    with pytest.raises(JobStateError, match="voices of this transcript are not stored"):
        again(plain.job_id)
    with pytest.raises(UnknownNameError, match="no speaker"):
        changed(plain.job_id, _1="Anna")


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Place]:
    with place(tmp_path / "own") as made:
        yield made


def test_evidence_is_deleted_with_its_transcript(own: Place) -> None:
    recording = CONVERSATION / "three_voices.opus"
    job = finished(jobs.submit(request(recording, fake_options(diarize=True))).job_id)
    count = "SELECT count(*) FROM speaker_evidence"
    with closing(sqlite3.connect(own.database)) as connection:
        assert connection.execute(count).fetchone() == (1,)
        jobs.delete(job.job_id)
        assert connection.execute(count).fetchone() == (0,)


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Home, Caller, str]]:
    """A server with its client, and a finished job of a conversation."""
    with home(tmp_path_factory.mktemp("asked")) as made, calling(stdio(made)) as caller:
        shutil.copy(CONVERSATION / "three_voices.opus", made.root)
        options = ("--queue", "--engine", "fake", "--diarize")
        done = shell(made, "transcribe", *options, str(made.root / "three_voices.opus"))
        made_job = done.stdout.split()[0]
        assert caller.finished(made_job)["status"] == "completed"
        yield made, caller, made_job


def shell(made: Home, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run(
        *arguments,
        cwd=made.root,
        env=environment(made.root, TRANSCRIBE_MCP_DATA_DIR=str(made.data)),
    )


def listed(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [json.loads(line)["id"] for line in done.stdout.splitlines()]


def test_a_shell_finds_merges_and_renames_speakers_in_one_call(
    asked: tuple[Home, Caller, str],
) -> None:
    made, _, job = asked
    merge = ("--merge", "Speaker 2", "Speaker 3", "Speaker 4")
    done = shell(
        made, "jobs", "speakers", job, "--speakers", "4", *merge, "--rename", "Speaker 1=Anna",
        "Speaker 2=Bo Berg", "--json",
    )  # fmt: skip

    assert listed(done) == ["Anna", "Bo Berg"]
    lines = shell(made, "jobs", "speakers", job).stdout.splitlines()
    assert re.fullmatch(r"Anna     0:00:\d\d +\d\d%  from 0:00:01", lines[0])
    text = shell(made, "jobs", "show", job, "--format", "txt", "--quiet").stdout
    assert {line.split(": ")[0] for line in text.splitlines()} == {"Anna", "Bo Berg"}
    word = text.split(": ")[1].split()[0]
    assert "  Anna: " in shell(made, "jobs", "search", word, "--speaker", "anna").stdout
    assert "Anna" not in shell(made, "jobs", "search", word, "--speaker", "bo berg").stdout


REFUSED = {
    "--rename is 'Speaker 1'": ("--rename", "Speaker 1"),
    "no speaker 'Nobody'": ("--merge", "Speaker 1", "Nobody"),
    "no speaker ''": ("--merge",),
    "contradicts": ("--speakers", "2", "--max-speakers", "3"),
}


def test_a_shell_is_told_why_speakers_are_not_changed(asked: tuple[Home, Caller, str]) -> None:
    made, _, job = asked
    before = shell(made, "jobs", "speakers", job, "--min-speakers", "1", "--json")

    for message, arguments in REFUSED.items():
        done = shell(made, "jobs", "speakers", job, *arguments)
        assert done.returncode == 2
        assert message in done.stderr
        assert "hint: " in done.stderr
    assert shell(made, "jobs", "speakers", job, "--json").stdout == before.stdout


def test_an_assistant_names_speakers_and_reads_the_names(asked: tuple[Home, Caller, str]) -> None:
    made, caller, job = asked
    shell(made, "jobs", "speakers", job, "--min-speakers", "1")
    read = caller.answer("get_transcription_result", job_id=job)
    assert [each["id"] for each in read["speakers"]] == THREE
    assert sum(each["share"] for each in read["speakers"]) == pytest.approx(1, abs=0.02)

    named = caller.answer(
        "name_speakers", job_id=job, names={"Speaker 1": "Anna"}, merge=[["Speaker 2", "Speaker 3"]]
    )

    assert [each["id"] for each in named["speakers"]] == ["Anna", "Speaker 2"]
    text = caller.answer("get_transcription_result", job_id=job)["text"]
    assert text.startswith("Anna: ")
    assert "Speaker 3" not in text
    again_named = caller.answer("name_speakers", job_id=job, names=["Speaker 2=Bo"])
    assert [each["id"] for each in again_named["speakers"]] == ["Anna", "Bo"]
    word = text.split(": ")[1].split()[0]
    hits = caller.answer("search_transcripts", query=word, speaker="Anna")["hits"]
    assert {hit["speaker"] for hit in hits} == {"Anna"}
    shell(made, "jobs", "speakers", job, "--rename", "Anna=Cleo")
    assert caller.answer("get_transcription_result", job_id=job)["text"].startswith("Cleo: ")


def test_an_assistant_is_told_which_speakers_there_are(asked: tuple[Home, Caller, str]) -> None:
    made, caller, job = asked
    shell(made, "jobs", "speakers", job, "--min-speakers", "1")

    assert "Speaker 3" in caller.refusal("name_speakers", job_id=job, names=["You=Me"])["hint"]
    assert caller.refusal("name_speakers", job_id=job, names=["Anna"])["code"] == "usage"
    assert caller.refusal("name_speakers", job_id=job, merge=["Speaker 1"])["code"] == "usage"
    listed_only = caller.answer("name_speakers", job_id=job)
    assert [each["id"] for each in listed_only["speakers"]] == THREE


def test_a_database_of_version_2_keeps_its_transcripts_and_finds_their_speakers(
    own: Place, tmp_path: Path
) -> None:
    call = tmp_path / "call.wav"
    rate_hz = 16_000
    voices = np.zeros((4 * rate_hz, 2), np.float32)
    voices[rate_hz : 2 * rate_hz, 0] = speechlike(1)
    voices[3 * rate_hz :, 1] = speechlike(1)
    with wave.open(str(call), "wb") as file:
        file.setparams((2, 2, rate_hz, 0, "NONE", ""))
        file.writeframes((voices * 20_000).astype("<i2").tobytes())
    job = finished(jobs.submit(request(call, fake_options(channel="split", vad=False))).job_id)
    before = jobs.get_transcript(job.job_id)
    fresh()
    end_workers(own)
    with closing(sqlite3.connect(own.database)) as connection:
        connection.executescript(
            "DROP TABLE speaker_evidence; ALTER TABLE segments DROP COLUMN speaker;"
            "ALTER TABLE transcripts DROP COLUMN revision;"
            "UPDATE store_about SET value = '2' WHERE name = 'schema_version';"
        )

    assert jobs.get_transcript(job.job_id) == before
    word = before.segments[0].text.split()[0]
    assert {hit.speaker for hit in jobs.search(word, speaker="left").hits} == {"left"}
    renamed = jobs.change_speakers(job.job_id, SpeakerChange(names={"left": "Anna"}))
    assert "Anna" in names(renamed)
