"""Damaged media give finite samples or an error in words: never another exception, a crash, a hang
or FFmpeg's chatter.

Each container's cases run in a child process of its own: a crash in native code ends only that, a
hang is ended by a time limit, and both name the case, because the child says each case before it
tries it.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from patience import PATIENCE_S

CASES = 75
FILES = {
    "wav": ("pcm_s16le", 16_000),
    "flac": ("flac", 16_000),
    "mp3": ("libmp3lame", 16_000),
    "m4a": ("aac", 16_000),
    "opus": ("libopus", 48_000),
    "mka": ("aac", 16_000),
    "ts": ("mp2", 48_000),
    "avi": ("libmp3lame", 44_100),
    "mp4": ("aac", 16_000),
}


def mutate(data: bytes, seed: int) -> bytes:
    """One to three wounds: bytes flipped, deleted, inserted, cut off, shuffled, zeroed; half of
    them in the header.
    """
    chance = random.Random(seed)
    out = bytearray(data)
    for _ in range(chance.randint(1, 3)):
        end = max(2, min(len(out), 600)) if chance.random() < 0.5 else max(2, len(out))
        at = chance.randrange(end)
        size = chance.choice([1, 2, 4, 8, 64, 500])
        match chance.randrange(7):
            case 0:
                out[at : at + size] = bytes(
                    byte ^ (1 << chance.randrange(8)) for byte in out[at : at + size]
                )
            case 1:
                del out[at : at + size]
            case 2:
                out[at:at] = chance.randbytes(size)
            case 3:
                del out[at:]
            case 4:
                chunks = [out[i : i + 512] for i in range(0, len(out), 512)]
                chance.shuffle(chunks)
                out = bytearray(b"".join(chunks))
            case 5:
                out[at : at + 4] = chance.choice(
                    [b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\0\0\0\1"]
                )
            case _:
                out[at : at + size] = b"\0" * size
    return bytes(out)


def run_cases(path: Path) -> None:
    """The child: try every case; leave by an exception at the first that breaks the promise."""
    import numpy as np
    from hypothesis import HealthCheck, given, settings
    from hypothesis import strategies as st

    from transcribe_mcp.errors import SourceError
    from transcribe_mcp.media import decode

    data = path.read_bytes()
    target = path.with_stem("mutated")
    tried = set()

    @settings(  # a process of its own, without the profile of conftest.py
        max_examples=CASES,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.integers(0, 2**32))
    def promise(seed: int) -> None:
        tried.add(seed)
        (path.parent / "case").write_text(str(seed))
        target.write_bytes(mutate(data, seed))
        samples = 0
        try:
            decode.probe(target)
            for block in decode.read_blocks(target, block_s=60, notices=[]):
                assert block.dtype == np.float32
                assert 0 < len(block) <= 60 * decode.SAMPLE_RATE_HZ
                assert np.isfinite(block).all()
                assert np.abs(block).max() <= decode.LOUDEST
                samples += len(block)
            assert samples
        except SourceError as error:
            assert str(error)
            assert "\n" not in str(error)

    promise()
    print(f"{len(tried)} cases")


@pytest.mark.parametrize("suffix", FILES)
def test_mutated_media_give_samples_or_an_error_in_words(tmp_path, suffix):
    from media import speechlike, write_audio, write_video

    codec, rate_hz = FILES[suffix]
    path = tmp_path / f"a.{suffix}"
    if suffix == "mp4":
        write_video(path, seconds=1.5, audio_codec=codec)
    else:
        write_audio(path, codec, speechlike(1.5, rate_hz), rate_hz=rate_hz)
    child = [sys.executable, "-X", "faulthandler", __file__, str(path)]
    try:
        done = subprocess.run(
            child,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            env={**os.environ, "PYTHONPATH": ""},
        )
    except subprocess.TimeoutExpired:
        pytest.fail(
            f"case {(tmp_path / 'case').read_text()} or those before it took more than "
            f"{PATIENCE_S} s"
        )
    assert done.returncode == 0, f"case {(tmp_path / 'case').read_text()}: {done.stderr[-2000:]}"
    assert done.stderr == "", "FFmpeg or a warning spoke"
    cases, word = done.stdout.split()
    assert word == "cases", "something else was printed"
    assert int(cases) >= 60, "nine files of 60 cases are more than 500"


if __name__ == "__main__":
    run_cases(Path(sys.argv[1]))
