"""Make the recordings in this directory, and the text that each of them says.

    python samples/make.py

needs flite with its voices ``rms`` and ``awb`` (Debian and Ubuntu: ``apt-get install flite``) and
this project's own PyAV. The recordings are committed; run this only to change them.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).parent
SAMPLE_RATE_HZ = 16_000  # that of the voices
PAUSE_S = 2.5  # between two speakers

Line = tuple[str, str]  # voice, what it says

SAMPLES: dict[str, list[Line]] = {
    "welcome": [
        (
            "awb",
            "Welcome. This program listens to a recording and writes down every word, with "
            "the time when it was said. "
            "The work is done on your own machine. We hope that you will find it useful.",
        )
    ],
    "dialogue": [
        ("rms", "Good morning. Did you listen to the recording of the meeting?"),
        ("awb", "Yes, and I have written down what everybody said."),
        ("rms", "Thank you. That will save us a lot of time."),
    ],
}


def main() -> None:
    for name, lines in SAMPLES.items():
        pause = np.zeros(int(PAUSE_S * SAMPLE_RATE_HZ), dtype=np.int16)
        pieces = [piece for voice, text in lines for piece in (pause, speak(voice, text))][1:]
        write_flac(HERE / f"{name}.flac", np.concatenate(pieces))
        (HERE / f"{name}.txt").write_text(
            "".join(f"{text}\n" for _, text in lines), encoding="utf-8"
        )


def speak(voice: str, text: str) -> NDArray[np.int16]:
    """(n,) samples of flite's ``voice`` saying ``text``."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "speech.wav")
        subprocess.run(["flite", "-voice", voice, "-t", text, "-o", path], check=True)
        with av.open(path) as container:
            stream = container.streams.audio[0]
            if stream.rate != SAMPLE_RATE_HZ:
                raise SystemExit(
                    f"flite's voice {voice} has {stream.rate} Hz, not {SAMPLE_RATE_HZ}: is "
                    "it installed?"
                )
            return np.concatenate([frame.to_ndarray()[0] for frame in container.decode(stream)])


def write_flac(path: Path, samples: NDArray[np.int16]) -> None:
    with av.open(path, "w") as container:
        stream = container.add_stream(
            "flac", rate=SAMPLE_RATE_HZ, options={"compression_level": "12"}
        )
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(samples[np.newaxis], format="s16", layout="mono")
        frame.sample_rate = SAMPLE_RATE_HZ
        container.mux([*stream.encode(frame), *stream.encode(None)])


if __name__ == "__main__":
    main()
