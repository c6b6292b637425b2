"""Any recording becomes mono float32 at 16 kHz, or an error in words."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import av
import numpy as np
import psutil
import pytest
from media import speechlike, wav_bytes, write_audio, write_video
from slow import slow

from transcribe_mcp.domain.transcript import Notice
from transcribe_mcp.errors import (
    NoAudioError,
    NotMediaError,
    SourceNotFoundError,
    SourceUnreadableError,
)
from transcribe_mcp.media import decode as decode_module
from transcribe_mcp.media.container import Media, opened
from transcribe_mcp.media.decode import SAMPLE_RATE_HZ, probe, read, read_blocks
from transcribe_mcp.media.decode_parallel import range_layout, ranges

RATE_HZ = SAMPLE_RATE_HZ
LONG_S = 131.7  # for three threads: two ranges each, and one for the end

CODECS = [
    ("wav", "pcm_s16le", 8_000, "mono"),
    ("wav", "pcm_u8", 11_025, "mono"),
    ("wav", "pcm_s24le", 192_000, "stereo"),
    ("wav", "pcm_s32le", 48_000, "7.1"),
    ("wav", "pcm_f32le", 44_100, "stereo"),
    ("wav", "pcm_f64le", 96_000, "mono"),
    ("wav", "pcm_alaw", 8_000, "mono"),
    ("wav", "adpcm_ima_wav", 22_050, "mono"),
    ("aiff", "pcm_s16be", 44_100, "stereo"),
    ("caf", "pcm_s16le", 44_100, "5.1"),
    ("au", "pcm_s16be", 16_000, "mono"),
    ("flac", "flac", 44_100, "stereo"),
    ("ogg", "flac", 44_100, "mono"),
    ("mp3", "libmp3lame", 44_100, "stereo"),
    ("mp2", "mp2", 48_000, "stereo"),
    ("m4a", "aac", 44_100, "stereo"),
    ("aac", "aac", 48_000, "mono"),
    ("m4a", "alac", 44_100, "stereo"),
    ("mov", "pcm_s16le", 48_000, "stereo"),
    ("opus", "libopus", 48_000, "stereo"),
    ("webm", "libopus", 48_000, "mono"),
    ("mka", "ac3", 48_000, "5.1"),
    ("ogg", "vorbis", 44_100, "stereo"),
    ("wma", "wmav2", 44_100, "stereo"),
    ("wv", "wavpack", 44_100, "mono"),
    ("tta", "tta", 44_100, "mono"),
    ("ts", "mp2", 48_000, "mono"),
    ("avi", "libmp3lame", 44_100, "mono"),
    ("amr", "libopencore_amrnb", 8_000, "mono"),
]


def decode(path: Path, **options) -> tuple[np.ndarray, list[Notice]]:
    notices: list[Notice] = []
    blocks = list(read_blocks(path, notices=notices, **options))
    return np.concatenate(blocks), notices


def agreement(got: np.ndarray, truth: np.ndarray) -> float:
    """Correlation at the best shift within 60 ms: encoders add a delay of their own."""
    n = min(len(got), len(truth)) - 2000
    shifts = range(-960, 961, 8)
    return max(float(np.corrcoef(got[1000 + s : n + s], truth[1000:n])[0, 1]) for s in shifts)


@pytest.mark.parametrize(("suffix", "codec", "rate_hz", "layout"), CODECS)
def test_every_codec_gives_its_sound_at_16_khz(tmp_path, suffix, codec, rate_hz, layout):
    options = {"b": "128000"} if codec == "wmav2" else {}
    path = tmp_path / f"a.{suffix}"
    write_audio(path, codec, speechlike(3, rate_hz), rate_hz=rate_hz, layout=layout, **options)
    got, notices = decode(path)
    assert got.dtype == np.float32
    assert abs(len(got) / RATE_HZ - 3) < 0.15
    assert agreement(got, speechlike(3)) > 0.85
    assert np.abs(got).max() <= 1
    assert notices == []
    info = probe(path)
    assert (info.sample_rate_hz, info.channels) == (rate_hz, av.AudioLayout(layout).nb_channels)
    assert info.duration is None or abs(info.duration - 3) < 0.3


@pytest.mark.parametrize("channels", [1, 2, 3, 8, 9, 16])
def test_any_number_of_channels_in_unknown_places_becomes_their_mean(tmp_path, channels):
    wave = (speechlike(1) * 20_000).astype("<i2")
    path = tmp_path / "a.wav"
    path.write_bytes(
        wav_bytes(np.repeat(wave, channels).tobytes(), rate_hz=RATE_HZ, channels=channels, bits=16)
    )
    got, _ = decode(path)
    np.testing.assert_allclose(got, wave / 32768, atol=1e-3)


def test_loud_channels_do_not_clip(tmp_path):
    path = write_audio(
        tmp_path / "a.wav", "pcm_s16le", np.full(RATE_HZ, 0.99, np.float32), layout="5.1"
    )
    got, _ = decode(path)
    assert 0.95 < np.abs(got).max() <= 1


def test_blocks_have_the_size_asked_for_but_the_last(tmp_path):
    path = write_audio(tmp_path / "a.flac", "flac", speechlike(5.3, 44_100), rate_hz=44_100)
    blocks = list(read_blocks(path, block_s=2))
    assert [len(block) for block in blocks[:-1]] == [2 * RATE_HZ, 2 * RATE_HZ]
    np.testing.assert_array_equal(np.concatenate(blocks), read(path))


@pytest.mark.parametrize(
    ("suffix", "codec", "rate_hz"),
    [
        ("wav", "pcm_s16le", 44_100),
        ("wav", "pcm_f32le", 8_000),
        ("aiff", "pcm_s24be", 11_025),
        ("flac", "flac", 44_100),
        ("flac", "flac", 16_000),
        ("m4a", "alac", 16_000),
        ("wv", "wavpack", 22_050),
        ("tta", "tta", 22_050),
        ("mp3", "libmp3lame", 22_050),
        ("mp3", "libmp3lame", 11_025),
        ("opus", "libopus", 48_000),
    ],
)
def test_ranges_on_threads_give_the_very_samples_of_the_serial_decode(
    tmp_path, monkeypatch, suffix, codec, rate_hz
):
    monkeypatch.setattr(decode_module, "PARALLEL_FROM_S", LONG_S)
    path = write_audio(
        tmp_path / f"a.{suffix}", codec, speechlike(LONG_S, rate_hz), rate_hz=rate_hz
    )
    serial, _ = decode(path, block_s=60)
    parallel, notices = decode(path, block_s=60, threads=3)
    np.testing.assert_array_equal(parallel, serial)
    assert notices == []
    with opened(Media(path)) as (container, stream):
        layout = range_layout(container, stream)
    assert layout is not None
    assert sum(len(piece) for piece in ranges(Media(path), layout, 3)) == len(serial), (
        "the ranges themselves, no way back"
    )


@pytest.mark.parametrize(
    "rate",
    [{"b": "48000"}, {"global_quality": "826", "flags": "+qscale"}],
    ids=["constant", "variable"],
)
@slow
def test_a_long_mp3_is_the_same_in_ranges_that_begin_at_bytes_found_in_it(tmp_path, rate):
    path = write_audio(tmp_path / "a.mp3", "libmp3lame", speechlike(1200.4, 16_000), **rate)
    with opened(Media(path)) as (container, stream):
        layout = range_layout(container, stream)
    assert layout is not None and not layout.has_table
    np.testing.assert_array_equal(
        np.concatenate(list(ranges(Media(path), layout, 1))), decode(path)[0]
    )


@pytest.mark.parametrize(
    ("suffix", "codec", "rate_hz"), [("m4a", "aac", 16_000), ("wav", "pcm_s16le", 22_051)]
)
def test_what_has_no_exact_ranges_is_decoded_serially(
    tmp_path, monkeypatch, suffix, codec, rate_hz
):
    monkeypatch.setattr(decode_module, "PARALLEL_FROM_S", LONG_S)
    path = write_audio(
        tmp_path / f"a.{suffix}", codec, speechlike(LONG_S, rate_hz), rate_hz=rate_hz
    )
    with opened(Media(path)) as (container, stream):
        assert range_layout(container, stream) is None
    np.testing.assert_array_equal(decode(path, threads=2)[0], decode(path)[0])


def test_damage_in_a_long_file_gives_the_same_on_threads_and_a_warning(tmp_path):
    path = write_audio(tmp_path / "a.flac", "flac", speechlike(400))
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 30_000] = os.urandom(30_000)
    path.write_bytes(data)
    serial, said = decode(path)
    parallel, said_again = decode(path, threads=2)
    np.testing.assert_array_equal(parallel, serial)
    assert said == said_again
    assert {notice.code for notice in said} & {"source_damaged", "gap_filled"}
    assert abs(len(serial) / RATE_HZ - 400) < 0.2, "what follows the damage keeps its time"


@pytest.mark.parametrize(
    ("suffix", "codec"), [("flac", "flac"), ("wav", "pcm_s16le"), ("mka", "aac")]
)
def test_a_truncated_file_gives_what_could_be_decoded_and_a_warning(tmp_path, suffix, codec):
    path = write_audio(tmp_path / f"a.{suffix}", codec, speechlike(20))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    got, notices = decode(path)
    assert 8 < len(got) / RATE_HZ < 12
    assert [notice.code for notice in notices] == ["source_damaged"]


def test_sound_that_starts_late_in_a_video_keeps_its_time(tmp_path):
    path = write_video(tmp_path / "a.mkv", seconds=6, audio_codec="libopus", audio_start_s=2)
    got, notices = decode(path)
    assert not got[: round(1.9 * RATE_HZ)].any()
    assert agreement(got[2 * RATE_HZ :], speechlike(4)) > 0.85
    assert [notice.code for notice in notices] == ["gap_filled"]


def test_a_hole_in_the_timestamps_becomes_silence(tmp_path):
    path = write_video(tmp_path / "a.mkv", seconds=8, audio_codec="libopus", hole_s=(3, 5))
    got, notices = decode(path)
    assert abs(len(got) / RATE_HZ - 8) < 0.1
    assert not got[round(3.2 * RATE_HZ) : round(4.8 * RATE_HZ)].any()
    assert agreement(got[5 * RATE_HZ :], speechlike(8)[5 * RATE_HZ :]) > 0.85
    assert [notice.code for notice in notices] == ["gap_filled"]


def test_timestamps_days_ahead_do_not_make_days_of_silence(tmp_path):
    path = write_video(tmp_path / "a.mkv", seconds=4, audio_codec="libopus", audio_start_s=300_000)
    got, notices = decode(path)
    assert len(got) / RATE_HZ < 3700
    assert notices


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv", "webm", "avi", "ts"])
def test_videos_give_their_sound(tmp_path, suffix):
    codec = {"webm": "libopus", "avi": "libmp3lame"}.get(suffix, "aac")
    got, _ = decode(write_video(tmp_path / f"a.{suffix}", seconds=3, audio_codec=codec))
    assert agreement(got, speechlike(3)) > 0.85


def test_a_video_without_sound_says_so(tmp_path):
    with pytest.raises(NoAudioError, match="no audio track"):
        decode(write_video(tmp_path / "a.mp4", audio_codec=None))


def test_a_recording_without_samples_says_so(tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(wav_bytes(b"", rate_hz=RATE_HZ, channels=1, bits=16))
    with pytest.raises(NoAudioError):
        decode(path)


def test_a_tenth_of_a_second_is_enough(tmp_path):
    assert len(read(write_audio(tmp_path / "a.wav", "pcm_s16le", speechlike(0.1)))) == 1600


def test_samples_that_are_no_numbers_become_silence_and_a_warning(tmp_path):
    wave = speechlike(2).astype("<f4")
    wave[5000:5003] = np.nan, np.inf, -np.inf
    path = tmp_path / "a.wav"
    path.write_bytes(wav_bytes(wave.tobytes(), rate_hz=RATE_HZ, channels=1, bits=32, code=3))
    got, notices = decode(path)
    assert np.isfinite(got).all()
    assert not got[5000:5003].any()
    np.testing.assert_array_equal(got[6000:], wave[6000:])
    assert [notice.code for notice in notices] == ["invalid_samples"]


def test_an_encrypted_recording_is_called_that(tmp_path):
    path = tmp_path / "a.mp4"
    keys = {
        "encryption_scheme": "cenc-aes-ctr",
        "encryption_key": "01" * 16,
        "encryption_kid": "02" * 16,
    }
    with av.open(str(path), "w", container_options=keys) as container:
        stream = container.add_stream("aac", rate=RATE_HZ, layout="mono")
        frame = av.AudioFrame.from_ndarray(speechlike(2)[None], format="fltp", layout="mono")
        frame.sample_rate = RATE_HZ
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(NotMediaError, match="encrypted"):
        decode(path)


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", NotMediaError),
        (b"just some words\n" * 50, NotMediaError),
        (bytes(np.random.default_rng(1).integers(0, 256, 50_000, dtype=np.uint8)), NotMediaError),
        (b"\0" * 50_000, NotMediaError),
        (b"1\n00:00:00,000 --> 00:00:02,000\nHello\n", NotMediaError),
    ],
)
@pytest.mark.parametrize("name", ["a.wav", "a.mp3", "a.txt", "a.mp4"])
def test_what_is_no_media_is_refused_in_words(tmp_path, name, content, error):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(error) as caught:
        decode(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{sound}\n#EXT-X-ENDLIST\n"),
        ("a.ffconcat", "ffconcat version 1.0\nfile '{sound}'\n"),
        ("a.wav", "ffconcat version 1.0\nfile '{sound}'\n"),
        (
            "a.sdp",
            (
                "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
                "m=audio 5004 RTP/AVP 0\n"
            ),
        ),
    ],
)
def test_playlists_cannot_reach_other_files(tmp_path, name, text):
    sound = write_audio(tmp_path / "sound.wav", "pcm_s16le", speechlike(1))
    (tmp_path / name).write_text(text.format(sound=sound.name))
    with pytest.raises(NotMediaError):
        decode(tmp_path / name)


@pytest.mark.parametrize(
    "name",
    [
        "-i.wav",
        "with spaces.wav",
        "ünïcödé 录音.wav",
        "http:talk.wav",
        "concat:a|b.wav",
        "%03d.wav",
    ],
)
def test_odd_names_are_only_names(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    write_audio(tmp_path / "plain.wav", "pcm_s16le", speechlike(1)).rename(name)
    assert len(read(Path(name))) == RATE_HZ


def test_missing_files_directories_pipes_and_sockets_are_refused_at_once(tmp_path):
    with pytest.raises(SourceNotFoundError):
        decode(tmp_path / "none.wav")
    with pytest.raises(SourceUnreadableError, match="directory"):
        decode(tmp_path)
    os.mkfifo(tmp_path / "pipe.wav")
    with pytest.raises(SourceUnreadableError, match="not a regular file"):
        decode(tmp_path / "pipe.wav")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        with pytest.raises(SourceUnreadableError):
            decode(tmp_path / "s")


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything"
)
def test_a_file_without_permission_says_so(tmp_path):
    path = write_audio(tmp_path / "a.wav", "pcm_s16le", speechlike(1))
    path.chmod(0)
    with pytest.raises(SourceUnreadableError):
        decode(path)


def test_a_reader_that_stops_early_leaves_no_thread_and_no_open_file(tmp_path):
    path = write_audio(tmp_path / "a.wav", "pcm_s16le", speechlike(600))
    blocks = read_blocks(path, block_s=10, threads=2)
    next(blocks)
    blocks.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("decode")]
    links = [link.readlink() for link in Path("/proc/self/fd").glob("*") if link.is_symlink()]
    assert path not in links


@pytest.fixture(scope="module")
def five_minutes(tmp_path_factory):
    return write_audio(tmp_path_factory.mktemp("long") / "a.mp3", "libmp3lame", speechlike(300))


@pytest.mark.parametrize("threads", [1, 2])
def test_reading_starts_no_threads_but_those_it_was_given(five_minutes, threads):

    def other_threads() -> int:
        return psutil.Process().num_threads() - threading.active_count()

    before = other_threads()
    blocks = read_blocks(five_minutes, block_s=5, threads=threads)
    assert max(other_threads() for _ in blocks) <= before


@slow
def test_the_memory_of_a_decode_does_not_grow_with_the_recording(tmp_path):
    peaks_kib = []
    for hours in (1, 3):
        path = tmp_path / f"{hours}.flac"
        write_audio(path, "flac", np.zeros(hours * 3600 * 8000, np.float32), rate_hz=8000)
        code = (
            "import resource, sys; from pathlib import Path; from transcribe_mcp import audio\n"
            "for block in audio.read_blocks(Path(sys.argv[1]), block_s=60, threads=2): pass\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
        )
        peaks_kib.append(int(done.stdout))
    assert peaks_kib[1] < peaks_kib[0] * 1.1
