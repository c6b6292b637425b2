"""Speech is found in whatever track and channel it lies, however quiet it is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from command_line import FAKE, results, run
from media import write_planes, write_tracks
from scripted_engine import ScriptedEngine, says_hello
from whisper_nano import NON_SPEECH, SPEECH, kept_conversions, whisper_nano

from transcribe_mcp.domain.options import Options
from transcribe_mcp.domain.transcript import Notice, Transcript
from transcribe_mcp.engines import EngineRequest, Recognizer, load_recognizer
from transcribe_mcp.errors import UsageError
from transcribe_mcp.formats import render
from transcribe_mcp.jobs.job_options import options_key
from transcribe_mcp.jobs.models import JobOptions
from transcribe_mcp.media.decode import SAMPLE_RATE_HZ, Levels, Samples, read, read_blocks
from transcribe_mcp.pipeline.offline import transcribe

ENGLISH = Options(language="en")
VOICE = SPEECH / "en_0.flac"
OTHER = SPEECH / "en_1.flac"


@pytest.fixture(scope="module")
def engine() -> Iterator[Recognizer]:
    with kept_conversions():
        loaded = load_recognizer(
            EngineRequest(
                "ctranslate2", str(whisper_nano()), "cpu", "int8", threads=2, offline=True
            )
        )
        yield loaded
    loaded.close()


@pytest.fixture(scope="module")
def voice() -> Samples:
    return read(VOICE)


@pytest.fixture(scope="module")
def words(engine: Recognizer) -> str:
    return transcribe(VOICE, engine, ENGLISH).text


def codes(transcript: Transcript) -> list[str]:
    return [notice.code for notice in transcript.warnings]


def message(transcript: Transcript, code: str) -> str:
    return next(notice.message for notice in transcript.warnings if notice.code == code)


def decode(path: Path) -> tuple[Samples, list[Notice]]:
    notices: list[Notice] = []
    return np.concatenate(list(read_blocks(path, notices=notices))), notices


def level_db(samples: Samples) -> float:
    return float(10 * np.log10(np.mean(samples**2) + 1e-12))


# --- tracks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("suffix", "codec"), [("mp4", "aac"), ("mka", "flac"), ("ts", "mp2")])
def test_the_track_with_speech_is_taken_where_the_first_is_silent(
    tmp_path, engine, voice, words, suffix, codec
):
    path = write_tracks(tmp_path / f"a.{suffix}", codec, [np.zeros_like(voice), voice])
    transcript = transcribe(path, engine, ENGLISH)
    assert transcript.text.split()[:4] == words.split()[:4]
    said = message(transcript, "several_tracks")
    assert "1 (" in said and "2 (" in said and "Track 2 was transcribed" in said


def test_noise_before_speech_is_no_reason_to_leave_the_default_track(tmp_path, voice):
    late = np.concatenate(
        [np.random.default_rng(1).normal(0, 0.001, 60 * SAMPLE_RATE_HZ).astype(np.float32), voice]
    )
    path = write_tracks(tmp_path / "a.mka", "flac", [late, np.resize(voice, len(late))])
    assert "Track 1 was transcribed." in message(
        transcribe(path, ScriptedEngine()), "several_tracks"
    )


def test_a_track_can_be_named_by_its_number_and_one_that_is_not_there_is_an_error_that_names_all(
    tmp_path, voice
):
    titles = [{"title": "Commentary", "language": "deu"}, {"language": "fra"}]
    path = write_tracks(tmp_path / "a.mka", "flac", [voice, np.zeros_like(voice)], titles)
    assert not transcribe(path, ScriptedEngine(), Options(track="2")).segments
    with pytest.raises(UsageError) as caught:
        transcribe(path, ScriptedEngine(), Options(track="3"))
    for part in ("no audio track 3", "Commentary", "deu", "fra", "flac"):
        assert part in str(caught.value)


def test_all_tracks_are_transcribed_each_with_its_name(tmp_path, engine, voice, words):
    titles = [{"title": "Anna"}, {"title": "Bert"}]
    path = write_tracks(tmp_path / "a.mka", "flac", [voice, read(OTHER)], titles)
    transcript = transcribe(path, engine, Options(language="en", track="all"))
    assert {segment.speaker for segment in transcript.segments} == {"Anna", "Bert"}
    assert "".join(s.text for s in transcript.segments if s.speaker == "Anna").strip() == words


# --- channels -------------------------------------------------------------------------------------


@pytest.mark.parametrize("gain", [-1.0, -0.9, -1.15], ids=["inverted", "quieter", "louder"])
def test_channels_that_cancel_are_not_silence(tmp_path, engine, voice, words, gain):
    path = write_planes(tmp_path / "a.wav", "stereo", [voice, np.clip(gain * voice, -1, 1)])
    transcript = transcribe(path, engine, ENGLISH)
    assert transcript.text == words
    assert "dB quieter" in message(transcript, "channels_cancel")


@pytest.mark.parametrize(
    ("layout", "channels"), [("5.1", (0, 1)), ("quad", (0, 1)), ("3 channels", (0, 2))]
)
def test_channels_among_many_that_cancel_are_not_silence(tmp_path, voice, layout, channels):
    n = av.AudioLayout(layout).nb_channels if "channels" not in layout else 3
    planes = [np.zeros_like(voice) for _ in range(n)]
    planes[channels[0]], planes[channels[1]] = voice, -voice
    got, notices = decode(write_planes(tmp_path / "a.wav", layout, planes))
    assert level_db(got) > level_db(voice) - 12
    assert [notice.code for notice in notices] == ["channels_cancel"]


def test_channels_that_cancel_in_a_part_of_the_recording_lose_nothing_there(tmp_path, voice):
    other = voice.copy()
    other[len(voice) // 2 :] *= -1
    got, notices = decode(write_planes(tmp_path / "a.wav", "stereo", [voice, other]))
    quarter = len(voice) // 4
    for first in range(0, 4 * quarter, quarter):
        part = slice(first, first + quarter)
        assert level_db(got[part]) > level_db(voice[part]) - 1
    assert [notice.code for notice in notices] == ["channels_cancel"]


def test_ranges_on_threads_choose_the_same_channels(tmp_path, voice):
    long = np.resize(voice, 260 * SAMPLE_RATE_HZ)
    other = long * np.where(np.arange(len(long)) // (37 * SAMPLE_RATE_HZ) % 2, -1, 1).astype(
        np.float32
    )
    path = write_planes(tmp_path / "a.flac", "stereo", [long, other])
    serial = np.concatenate(list(read_blocks(path)))
    np.testing.assert_array_equal(np.concatenate(list(read_blocks(path, threads=2))), serial)


def test_a_dead_channel_costs_no_level_and_no_warning(tmp_path, voice):
    got, notices = decode(write_planes(tmp_path / "a.wav", "stereo", [np.zeros_like(voice), voice]))
    assert abs(level_db(got) - level_db(voice)) < 0.1
    assert notices == []


def test_a_channel_can_be_named_and_one_that_is_not_there_is_an_error(tmp_path, voice):
    path = write_planes(tmp_path / "a.wav", "stereo", [np.zeros_like(voice), voice])
    for channel, hears in (
        ("left", False),
        ("1", False),
        ("right", True),
        ("2", True),
        ("mix", True),
    ):
        assert (
            bool(transcribe(path, ScriptedEngine(), Options(channel=channel)).segments) is hears
        ), channel
    with pytest.raises(
        UsageError, match=r"no channel 3; it has the channels 1 \(left\) and 2 \(right\)"
    ):
        transcribe(path, ScriptedEngine(), Options(channel="3"))


@pytest.mark.parametrize(
    "options", [{"track": "0"}, {"track": "first"}, {"channel": "-1"}, {"channel": "both"}]
)
def test_what_no_file_could_have_is_refused_before_any_is_opened(options):
    with pytest.raises(UsageError, match=r"there is no (track|channel)"):
        Options(**options)


def test_two_people_on_two_channels_are_two_speakers_who_may_talk_at_once(engine, voice, words):
    other = read(OTHER)
    n = min(len(voice), len(other))
    pair = np.stack([voice[:n], other[:n]], axis=1)
    transcript = transcribe(pair, engine, Options(language="en", channel="split"))
    assert {word.speaker for word in transcript.words} == {"left", "right"}
    left = "".join(s.text for s in transcript.segments if s.speaker == "left").split()
    assert left[:4] == words.split()[:4]
    assert Transcript.loads(transcript.dumps()).segments[0].start == pytest.approx(
        transcript.segments[0].start, abs=1e-3
    )
    cues = render(transcript, "vtt").split("\n\n")
    assert all("<v left>" not in cue or "<v right>" not in cue for cue in cues)
    assert sum(cue.count("<v left>") for cue in cues) and sum(
        cue.count("<v right>") for cue in cues
    )


def test_words_that_bleed_into_the_other_channel_are_there_once(engine, voice, words):
    pair = np.stack([0.05 * np.roll(voice, 80), voice], axis=1).astype(np.float32)
    transcript = transcribe(pair, engine, Options(language="en", channel="split"))
    assert transcript.text == words
    assert {word.speaker for word in transcript.words} == {"right"}
    assert "crosstalk" in codes(transcript)


def test_the_command_line_takes_a_track_and_a_channel(tmp_path, voice):
    path = write_planes(tmp_path / "a.wav", "stereo", [voice, np.zeros_like(voice)])
    done = run(
        *FAKE,
        path,
        "--channel",
        "split",
        "--track",
        "1",
        "--json",
        "--format",
        "json",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    transcript = json.dumps(results(done))
    assert '"left"' in transcript
    done = run(*FAKE, path, "--track", "2", cwd=tmp_path)
    assert done.returncode and "there is no audio track 2; the file has one" in done.stderr


def test_jobs_of_earlier_versions_keep_their_options_and_their_answers():
    assert "track" not in JobOptions().dumps()
    assert JobOptions.loads(JobOptions().dumps()) == JobOptions()
    chosen = JobOptions(track="2", channel="split")
    assert JobOptions.loads(chosen.dumps()) == chosen
    assert (
        options_key(JobOptions(beam_size=1))
        == "d7eecd8e16735c81a0f212a2999fe817029daa733c63deb8d3407affbd1cda96"
    )
    assert (
        len(
            {
                options_key(o)
                for o in (JobOptions(), JobOptions(track="2"), JobOptions(channel="left"))
            }
        )
        == 3
    )


# --- level ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("lower_db", [35, 60])
def test_speech_that_is_very_quiet_is_heard_as_if_it_were_not(engine, voice, words, lower_db):
    quiet = (voice * 10 ** (-lower_db / 20)).astype(np.float32)
    transcript = transcribe(quiet, engine, ENGLISH)
    assert transcript.text == words
    assert "raised by" in message(transcript, "level_raised")


def test_a_click_or_a_beep_does_not_hide_that_the_rest_is_very_quiet(engine, voice, words):
    quiet = voice * np.float32(1e-3)
    quiet[:200] = 0.9
    quiet[-8000:] = 0.3 * np.sin(np.arange(8000) * 0.4)
    transcript = transcribe(np.concatenate([quiet, np.zeros(8000, np.float32)]), engine, ENGLISH)
    assert transcript.text.split()[:6] == words.split()[:6]


def test_quiet_noise_is_no_speech_and_its_level_is_said(engine):
    for number, path in enumerate(sorted(NON_SPEECH.glob("*.[!j]*"))):
        lower_db = (40, 50, 60)[number % 3]
        transcript = transcribe(
            (read(path) * 10 ** (-lower_db / 20)).astype(np.float32), engine, ENGLISH
        )
        assert transcript.text == "", path.name
        said = message(transcript, "no_speech")
        assert "its loudest second is at -" in said or "the recording is silent" in said


def test_recordings_of_usual_level_stay_as_they_are(voice):
    def hear(window, language, options):
        first = round(window.start * SAMPLE_RATE_HZ)
        np.testing.assert_array_equal(window.samples, voice[first : first + len(window.samples)])
        return says_hello(window, language, options)

    transcript = transcribe(voice, ScriptedEngine(hear))
    assert transcript.segments and codes(transcript) == []


# --- offset and hum -------------------------------------------------------------------------------


def below_voices(voice: Samples, power: float, hz: float) -> Samples:
    """An offset (0 Hz) or a hum with so many times the power of ``voice``."""
    wave = np.cos(2 * np.pi * hz * np.arange(len(voice)) / SAMPLE_RATE_HZ)
    return (wave * np.sqrt(power * np.mean(voice**2) / np.mean(wave**2))).astype(np.float32)


@pytest.mark.parametrize("lower_db", [20, 45])
@pytest.mark.parametrize("hz", [0, 7, 50, 60], ids=["offset", "rumble", "hum", "American hum"])
def test_speech_is_heard_beside_a_loud_offset_or_hum(engine, voice, words, hz, lower_db):
    quiet = voice * np.float32(10 ** (-lower_db / 20))
    transcript = transcribe(quiet + below_voices(quiet, 100, hz), engine, ENGLISH)
    assert transcript.text.split()[:6] == words.split()[:6]
    assert "was filtered out" in message(transcript, "rumble_removed")


@pytest.mark.parametrize("hz", [0, 50], ids=["offset", "hum"])
def test_channels_that_cancel_are_not_silence_beside_an_offset_or_hum(
    tmp_path, engine, voice, words, hz
):
    voice = voice * np.float32(0.2)
    common = below_voices(voice, 9, hz)
    path = write_planes(tmp_path / "a.wav", "stereo", [common + voice, common - voice])
    transcript = transcribe(path, engine, ENGLISH)
    assert transcript.text.split()[:6] == words.split()[:6]
    assert "channels_cancel" in codes(transcript)


def test_silence_with_an_offset_is_called_silence(engine):
    transcript = transcribe(np.full(3 * SAMPLE_RATE_HZ, 0.25, np.float32), engine, ENGLISH)
    assert "the recording is silent" in message(transcript, "no_speech")


def test_only_the_minutes_that_hum_are_filtered(voice):
    minute = np.resize(voice, 60 * SAMPLE_RATE_HZ)
    levels = Levels()
    got = levels.leveled(np.concatenate([minute, minute + below_voices(minute, 100, 50), minute]))
    got = got.reshape(3, -1)
    np.testing.assert_array_equal(got[0], minute)
    np.testing.assert_array_equal(got[2], minute)
    assert level_db(got[1] - minute) < level_db(minute) - 15
    assert [notice.message[:10] for notice in levels.notices()] == ["At 60.0 s "]
