"""Audio from a microphone, through PortAudio."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from queue import Queue
from typing import Any

from ..errors import SourceUnreadableError

BLOCK_S = 0.03


@dataclass(frozen=True, slots=True)
class Microphone:
    """An open microphone.

    Attributes:
        name: of the device.
        rate_hz: its samples per second.
        blocks: samples of 16 bits, one channel; endless.
    """

    name: str
    rate_hz: int
    blocks: Iterator[bytes]


@contextmanager
def open_microphone(name: str = "") -> Iterator[Microphone]:
    """The microphone whose name contains ``name``, or the default one, until the block ends.

    Raises:
        SourceUnreadableError: no microphone, or its library is missing.
    """
    sounddevice = _library()
    blocks: Queue[bytes] = Queue()

    def take(data: Any, *_: object) -> None:
        blocks.put(bytes(data))

    try:
        about = sounddevice.query_devices(name or None, "input")
        rate_hz = int(about["default_samplerate"])
        with sounddevice.RawInputStream(
            samplerate=rate_hz,
            blocksize=round(BLOCK_S * rate_hz),
            device=name or None,
            channels=1,
            dtype="int16",
            callback=take,
        ):
            yield Microphone(about["name"], rate_hz, iter(blocks.get, None))
    except (sounddevice.PortAudioError, ValueError) as error:
        raise SourceUnreadableError(
            f"the microphone {name or 'of this machine'} cannot be used: {error}",
            hint="connect one, or name another with --microphone; python -m sounddevice lists them",
        ) from error


def _library() -> Any:
    try:
        import sounddevice
    except ImportError as error:
        raise SourceUnreadableError(
            f"the microphone needs the package sounddevice: {error}",
            hint="pip install 'transcribe-mcp[live]', or pipe audio into: transcribe-mcp listen -",
        ) from error
    except OSError as error:  # PortAudio itself
        raise SourceUnreadableError(
            f"the microphone needs the library PortAudio: {error}",
            hint="install it, for example: sudo apt install libportaudio2",
        ) from error
    return sounddevice
