"""All the sound that a file holds is read, whatever its headers say, and nothing is said to be
missing that is not.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from media import speechlike, wav_bytes, write_audio, write_planes, write_shifted, write_video

from transcribe_mcp.domain.transcript import Notice
from transcribe_mcp.media.decode import SAMPLE_RATE_HZ, Samples, probe, read_blocks
from transcribe_mcp.media.headers import corrected

PCM = (speechlike(5) * 32_767).astype("<i2").tobytes()
SECOND = 2 * SAMPLE_RATE_HZ  # bytes


def decode(path: Path) -> tuple[Samples, list[Notice]]:
    notices: list[Notice] = []
    return np.concatenate(list(read_blocks(path, notices=notices))), notices


def wav(data: bytes, claim: int | None = None) -> bytes:
    return wav_bytes(data, rate_hz=SAMPLE_RATE_HZ, channels=1, bits=16, claim=claim)


def with_riff_size(data: bytes, size: int) -> bytes:
    return data[:4] + struct.pack("<I", size) + data[8:]


def chunk(name: bytes, data: bytes) -> bytes:
    return name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


INFO = chunk(
    b"LIST",
    b"INFO"
    + chunk(b"ISFT", b"a program with a name that is long enough to be a click".ljust(4096)),
)
ALL = speechlike(5)
WAVS = {
    "promises a second of five": (wav(PCM, SECOND), "header_corrected"),
    "promises a second, then a list": (wav(PCM, SECOND) + INFO, "header_corrected"),
    "wrapped at 4 GiB": (
        with_riff_size(wav(PCM, len(PCM) - 3 * SECOND), 36 + len(PCM) - 3 * SECOND),
        "header_corrected",
    ),
    "size 0": (with_riff_size(wav(PCM, 0), 0), ""),
    "size 0, then a list": (with_riff_size(wav(PCM, 0), 0) + INFO, ""),
    "size -1, then a list": (wav(PCM, 0xFFFF_FFFF) + INFO, ""),
    "whole, then a list": (wav(PCM) + INFO, ""),
    "whole, then a chunk that nobody knows": (
        wav(PCM) + chunk(b"xyzw", bytes(range(256)) * 40),
        "",
    ),
    "whole, then an ID3 tag": (wav(PCM) + b"ID3\4" + bytes(range(256)) * 40, ""),
    "whole, then room kept free": (wav(PCM) + bytes(4 * SECOND), ""),
    "two chunks of sound": (
        wav(PCM[: 2 * SECOND]) + chunk(b"data", PCM[2 * SECOND :]),
        "several_parts",
    ),
    "two chunks and a list between": (
        wav(PCM[: 2 * SECOND]) + INFO + chunk(b"data", PCM[2 * SECOND :]),
        "several_parts",
    ),
    "two files": (wav(PCM[:SECOND]) + wav(PCM[SECOND:]), "several_parts"),
}


@pytest.mark.parametrize("name", WAVS)
def test_a_wav_is_read_to_the_end_of_its_sound_and_not_beyond(tmp_path, name):
    path = tmp_path / "a.wav"
    path.write_bytes(WAVS[name][0])
    got, notices = decode(path)
    np.testing.assert_allclose(got, ALL, atol=1e-4)
    assert [notice.code for notice in notices] == list(filter(None, [WAVS[name][1]]))
    assert probe(path).duration == pytest.approx(5, abs=0.1)


def test_a_wav_with_two_chunks_of_sound_in_three_bytes_a_sample_keeps_its_samples_apart(tmp_path):
    wide = np.zeros((len(PCM) // 2, 2, 3), np.uint8)
    wide[:, 0, 1:] = np.frombuffer(PCM, np.uint8).reshape(-1, 2)
    data = wide.tobytes()  # the left channel speaks, the right one is silent
    half = 6 * 40_000
    path = tmp_path / "a.wav"
    head = wav_bytes(data[:half], rate_hz=SAMPLE_RATE_HZ, channels=2, bits=24)
    path.write_bytes(head + chunk(b"data", data[half:]))
    np.testing.assert_allclose(decode(path)[0], ALL, atol=1e-4)


def test_a_wav_of_another_codec_is_read_to_its_end_too(tmp_path):
    path = write_audio(tmp_path / "a.wav", "adpcm_ima_wav", speechlike(5))
    whole, _ = decode(path)
    data = path.read_bytes()
    at = data.index(b"data") + 4
    path.write_bytes(data[:at] + struct.pack("<I", 10 * 1024) + data[at + 4 :])
    got, notices = decode(path)
    np.testing.assert_array_equal(got[: len(whole)], whole)
    assert [notice.code for notice in notices] == ["header_corrected"]


@pytest.mark.parametrize(
    ("suffix", "codec", "rates", "layouts"),
    [
        ("ogg", "vorbis", (44_100, 48_000), ("stereo", "stereo")),
        ("ogg", "vorbis", (44_100, 44_100), ("stereo", "stereo")),
        ("opus", "libopus", (48_000, 48_000), ("mono", "stereo")),
        ("oga", "flac", (16_000, 44_100), ("mono", "stereo")),
        ("flac", "flac", (16_000, 44_100), ("mono", "mono")),
        ("flac", "flac", (44_100, 16_000), ("mono", "stereo")),
        ("mp3", "libmp3lame", (44_100, 22_050), ("stereo", "mono")),
        ("aac", "aac", (44_100, 22_050), ("mono", "mono")),
        ("ac3", "ac3", (48_000, 44_100), ("mono", "stereo")),
        ("aiff", "pcm_s16be", (44_100, 16_000), ("mono", "stereo")),
        ("caf", "pcm_s16le", (16_000, 44_100), ("stereo", "mono")),
        ("w64", "pcm_s16le", (16_000, 44_100), ("mono", "stereo")),
        ("m4a", "aac", (44_100, 22_050), ("mono", "stereo")),
        ("mov", "pcm_s16le", (16_000, 44_100), ("mono", "mono")),
        ("mka", "flac", (16_000, 44_100), ("mono", "stereo")),
        ("mka", "pcm_s16le", (44_100, 16_000), ("mono", "mono")),
        ("webm", "libopus", (48_000, 48_000), ("mono", "stereo")),
        ("asf", "libmp3lame", (44_100, 22_050), ("mono", "stereo")),
    ],
)
def test_recordings_one_after_the_other_in_one_file_are_all_read(
    tmp_path, suffix, codec, rates, layouts
):
    seconds = (3, 4)
    path = tmp_path / f"a.{suffix}"
    written = b""
    for number, (rate_hz, layout) in enumerate(zip(rates, layouts, strict=True)):
        samples = speechlike(seconds[number], rate_hz)
        part = write_audio(
            tmp_path / f"{number}.{suffix}", codec, samples, rate_hz=rate_hz, layout=layout
        )
        written += part.read_bytes()
    path.write_bytes(written)
    got, notices = decode(path)
    assert len(got) / SAMPLE_RATE_HZ == pytest.approx(7, abs=0.25)
    truth = np.concatenate([speechlike(3), speechlike(4)])
    levels = [np.sqrt(np.mean(part**2)) for part in np.array_split(got, 14)]
    expected = [np.sqrt(np.mean(part**2)) for part in np.array_split(truth, 14)]
    np.testing.assert_allclose(levels, expected, atol=0.06)
    assert not any("the rest of the recording" in notice.message for notice in notices)


@pytest.mark.parametrize(
    ("suffix", "codec", "options"),
    [
        ("wav", "pcm_s16le", {"rf64": "always"}),
        ("webm", "libopus", {"live": "1"}),
        ("mp4", "aac", {"movflags": "frag_keyframe+empty_moov"}),
    ],
)
def test_files_without_a_length_one_after_the_other_are_all_read(tmp_path, suffix, codec, options):
    rate_hz = 48_000
    written = b""
    for number in (0, 1, 2):
        name = tmp_path / f"{number}.{suffix}"
        samples = speechlike(3, rate_hz)
        part = write_audio(name, codec, samples, rate_hz=rate_hz, container_options=options)
        written += part.read_bytes()
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(written)
    got, notices = decode(path)
    assert len(got) / SAMPLE_RATE_HZ == pytest.approx(9, abs=0.25)
    assert ["3 recordings" in notice.message for notice in notices] == [True]


def test_three_links_of_which_the_middle_one_differs_are_all_read(tmp_path):
    rates = (44_100, 48_000, 44_100)
    parts = [
        write_audio(tmp_path / f"{i}.ogg", "vorbis", speechlike(2, r), rate_hz=r, layout="stereo")
        for i, r in enumerate(rates)
    ]
    path = tmp_path / "a.ogg"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    got, notices = decode(path)
    assert len(got) / SAMPLE_RATE_HZ == pytest.approx(6, abs=0.1)
    assert ["3 recordings" in notice.message for notice in notices] == [True]


def test_a_recording_of_which_the_rest_is_lost_is_not_said_to_lack_a_part(tmp_path):
    path = tmp_path / "a.wv"
    for number, rate_hz in enumerate((16_000, 44_100)):
        part = write_audio(
            tmp_path / f"{number}.wv", "wavpack", speechlike(2, rate_hz), rate_hz=rate_hz
        )
        with path.open("ab") as file:
            file.write(part.read_bytes())
    _, notices = decode(path)
    assert [notice.code for notice in notices] == ["source_damaged"]
    assert "the rest of the recording is unreadable" in notices[0].message


@pytest.mark.parametrize("suffix", ["mkv", "webm", "flv", "wmv", "mp4"])
def test_sound_that_ends_before_the_picture_is_whole(tmp_path, suffix):
    codec = {"webm": "libopus", "flv": "libmp3lame", "wmv": "wmav2"}.get(suffix, "aac")
    path = write_video(tmp_path / f"a.{suffix}", seconds=8, audio_codec=codec, audio_seconds=4)
    got, notices = decode(path)
    assert len(got) / SAMPLE_RATE_HZ == pytest.approx(4, abs=0.3)
    assert [notice.code for notice in notices if notice.code == "source_damaged"] == []


@pytest.mark.parametrize("suffix", ["mkv", "flv"])
def test_a_video_that_was_cut_off_still_is_not(tmp_path, suffix):
    codec = {"flv": "libmp3lame"}.get(suffix, "libopus")
    path = write_video(tmp_path / f"a.{suffix}", seconds=12, audio_codec=codec)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "source_damaged" in [notice.code for notice in decode(path)[1]]


def test_a_clock_that_jumps_is_not_a_missing_end(tmp_path):
    first = write_shifted(tmp_path / "1.ts", "mp2", speechlike(3, 32_000), 32_000, 0)
    later = write_shifted(tmp_path / "2.ts", "mp2", speechlike(3, 32_000), 32_000, 40_000)
    path = tmp_path / "a.ts"
    path.write_bytes(first.read_bytes() + later.read_bytes())
    codes = [notice.code for notice in decode(path)[1]]
    assert "source_damaged" not in codes and "timestamps_ignored" in codes


def test_many_channels_in_one_file_are_read_in_bounded_memory_and_order(tmp_path):
    planes = [np.full(SAMPLE_RATE_HZ, i / 20, np.float32) for i in range(9)]
    got, _ = decode(write_planes(tmp_path / "a.wav", "9 channels", planes))
    assert got[4000] == pytest.approx(np.mean([i / 20 for i in range(1, 9)]), abs=0.01)


def patched(data: bytes, *changes: tuple[int, str, int]) -> bytes:
    """``data`` with numbers written over it: offset, format of ``struct`` and number."""
    changed = bytearray(data)
    for offset, form, number in changes:
        struct.pack_into(form, changed, offset, number)
    return bytes(changed)


def sizes_of(data: bytes) -> dict[str, tuple[int, str]]:
    """Offset and format of the sizes in a header: of the whole, and of the samples."""
    if data.startswith(b"FORM"):
        return {"whole": (4, ">I"), "sound": (data.index(b"SSND") + 4, ">I")}
    if data.startswith(b"RF64"):
        at = data.index(b"ds64") + 8
        return {"whole": (at, "<Q"), "sound": (at + 8, "<Q")}
    if data.startswith(b"caff"):
        return {"sound": (data.index(b"data") + 4, ">q")}
    return {"whole": (16, "<Q"), "sound": (data.index(b"data") + 16, "<Q")}


HEADERS = {
    "AIFF": (".aiff", "pcm_s16be", {}),
    "AIFC": (".aiff", "pcm_s16le", {}),
    "CAF": (".caf", "pcm_s16le", {}),
    "W64": (".w64", "pcm_s24le", {}),
    "RF64": (".wav", "pcm_s16le", {"rf64": "always"}),
}


@pytest.mark.parametrize("promise", ["a second", "nothing", "without end"])
@pytest.mark.parametrize("name", HEADERS)
def test_a_file_whose_sizes_were_never_written_is_read_to_its_end(tmp_path, name, promise):
    suffix, codec, options = HEADERS[name]
    path = write_audio(tmp_path / f"a{suffix}", codec, speechlike(5), container_options=options)
    data = path.read_bytes()
    sizes = sizes_of(data)
    unknown = -1 if name == "CAF" else 0x7F00_0008
    size = {"a second": 3 * SAMPLE_RATE_HZ, "nothing": 0, "without end": unknown}[promise]
    changes = [(*sizes["sound"], size)]
    if promise != "a second" and "whole" in sizes:
        changes.append((*sizes["whole"], size))
    path.write_bytes(patched(data, *changes))
    got, notices = decode(path)
    np.testing.assert_allclose(got, ALL, atol=1e-4)
    codes = [notice.code for notice in notices]
    assert codes == (["header_corrected"] if promise == "a second" else [])
    assert probe(path).duration == pytest.approx(5, abs=0.1)


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_that_is_right_is_left_as_it_is(tmp_path, name):
    suffix, codec, options = HEADERS[name]
    path = write_audio(tmp_path / f"a{suffix}", codec, speechlike(5), container_options=options)
    data = path.read_bytes()
    assert corrected(path) == ({}, None)
    path.write_bytes(data + bytes(2 * SECOND))
    assert corrected(path) == ({}, None), "room kept free"
    path.write_bytes(data[: len(data) // 2])
    assert corrected(path) == ({}, None), "cut off"
    if name == "RF64":
        path.write_bytes(data + chunk(b"xyzw", bytes(range(256)) * 40))
        assert corrected(path) == ({}, None), "another chunk"


@pytest.mark.parametrize(
    ("suffix", "codec", "options"),
    [
        (".aac", "aac", {"global_quality": "118", "flags": "+qscale"}),
        (".mp3", "libmp3lame", {"global_quality": "590", "flags": "+qscale"}),
    ],
)
def test_a_duration_that_was_only_estimated_is_not_promised(tmp_path, suffix, codec, options):
    """FFmpeg estimates it from the first frames, which silence makes small."""
    samples = np.concatenate([np.zeros(20 * SAMPLE_RATE_HZ, np.float32), speechlike(20)])
    header = {"write_xing": "0"} if suffix == ".mp3" else {}
    path = write_audio(tmp_path / f"a{suffix}", codec, samples, container_options=header, **options)
    assert (probe(path).duration or 0) > 50, "the estimate is wrong"
    got, notices = decode(path)
    assert len(got) / SAMPLE_RATE_HZ == pytest.approx(40, abs=0.2)
    assert notices == []


def test_a_video_in_a_riff_file_that_was_cut_off_is_said_to_be(tmp_path):
    path = write_video(tmp_path / "a.avi", seconds=10, audio_codec="libmp3lame")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    assert [notice.code for notice in decode(path)[1]] == ["source_damaged"]


@pytest.mark.parametrize(
    ("suffix", "codec"), [("opus", "libopus"), ("ogg", "vorbis"), ("oga", "flac")]
)
def test_an_ogg_file_that_breaks_off_is_said_to(tmp_path, suffix, codec):
    samples = speechlike(10, 48_000)
    path = write_audio(tmp_path / f"a.{suffix}", codec, samples, rate_hz=48_000, layout="stereo")
    data = path.read_bytes()
    assert decode(path)[1] == []
    path.write_bytes(data + b"\0" * 1000)
    assert decode(path)[1] == [], "something after the last page"
    path.write_bytes(data[: data.rindex(b"OggS")])
    assert decode(path)[1] == [], "a live recording has no last page"
    path.write_bytes(data[: len(data) * 2 // 3])
    assert [notice.code for notice in decode(path)[1]] == ["source_damaged"]


def test_tags_between_mp3_files_are_no_damage(tmp_path):
    written = b""
    for number, rate_hz in enumerate((24_000, 44_100, 24_000)):
        name = tmp_path / f"{number}.mp3"
        samples = speechlike(3, rate_hz)
        options = {"id3v2_version": "4", "write_id3v1": "1"}
        part = write_audio(name, "libmp3lame", samples, rate_hz=rate_hz, container_options=options)
        written += part.read_bytes()
    path = tmp_path / "a.mp3"
    path.write_bytes(written)
    got, notices = decode(path)
    assert len(got) / SAMPLE_RATE_HZ == pytest.approx(9, abs=0.3)
    assert "source_damaged" not in [notice.code for notice in notices]
