"""Stands in for the package sounddevice, which needs PortAudio: a microphone that hears the WAV
file of the variable SPOKEN, then silence of a second, then nothing.
"""

from __future__ import annotations

import os
import threading
import wave
from collections.abc import Callable
from typing import Any


class PortAudioError(Exception):
    pass


def query_devices(device: str | None, kind: str) -> dict[str, Any]:
    assert kind == "input"
    if device == "no such":
        raise ValueError("No input device matching 'no such'")
    with wave.open(os.environ["SPOKEN"]) as spoken:
        return {"name": "A microphone", "default_samplerate": float(spoken.getframerate())}


class RawInputStream:
    def __init__(self, *, callback: Callable[..., None], blocksize: int, **about: Any) -> None:
        assert (about["channels"], about["dtype"]) == (1, "int16")
        self._callback = callback
        self._blocksize = blocksize

    def __enter__(self) -> RawInputStream:
        threading.Thread(target=self._play, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is held."""

    def _play(self) -> None:
        with wave.open(os.environ["SPOKEN"]) as spoken:
            rate_hz = spoken.getframerate()
            while block := spoken.readframes(self._blocksize):
                self._callback(memoryview(block), len(block) // 2, None, None)
        self._callback(memoryview(bytes(2 * rate_hz)), rate_hz, None, None)
