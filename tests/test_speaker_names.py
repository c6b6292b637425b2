"""Speakers of finished transcripts: named, merged and found anew without the recording."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from job_places import Place, fake_options, finished, jobs, place, request
from postgres import new_database, server
from whisper_nano import CONVERSATION

from transcribe_mcp import Options, Transcript
from transcribe_mcp.errors import JobNotFoundError, JobStateError, UnknownNameError, UsageError
from transcribe_mcp.service.models import SpeakerChange

THREE = ["Speaker 1", "Speaker 2", "Speaker 3"]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def here(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("speakers")
    if request.param == "sqlite":
        with place(folder) as made:
            yield made
        return
    with server() as url, place(folder, DATABASE_URL=new_database(url)) as made:
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
