"""Opening a recording: what may be opened, its sound track, its frames, and every refusal in words."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.stream import Discard

from ..errors import NoAudioError, NotMediaError, SourceError, SourceNotFoundError, SourceUnreadableError
from ..openat import OpenedFile

SAMPLE_RATES_HZ = range(1_000, 1_000_000)  # outside, the header is damaged; 1 Hz would make an hour out of every 7 kB
DEMUX_FAILURES = 16
DAMAGED = "The file may be damaged, cut off or of another type than its name says."

# What may be opened: self-contained recordings. Playlists and the like (hls, dash, concat, imf, sdp …) name other
# files or addresses, and raw or picture formats take anything for media.
CONTAINERS = (
    "3gp,aa,aac,aax,ac3,ac4,act,aea,aiff,amr,amrnb,amrwb,ape,apac,apm,aptx,asf,asf_o,ast,au,avi,binka,bink,bonk,"
    "caf,codec2,daud,dsf,dss,dts,dtshd,dv,eac3,epaf,flac,flv,g722,g723_1,g729,gsm,gxf,iamf,iff,ilbc,ircam,kux,"
    "laf,lc3,live_flv,loas,lvf,matroska,webm,mlp,mmf,mov,mp4,m4a,moflex,mp3,mpc,mpc8,mpeg,mpegts,mpegvideo,msf,"
    "mtaf,mxf,nistsphere,nsv,nut,nuv,ogg,oma,osq,paf,pva,pvf,qcp,qoa,rka,rm,sbc,sds,shn,sox,spdif,swf,tak,truehd,"
    "tta,ty,voc,vqf,w64,wav,wavarc,wsd,wtv,wv,xa,xwma"
)
OPEN_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": CONTAINERS}

# A tag in a broken encoding must not cost the recording. PyAV 19 never fails over one and no longer takes the argument.
_TOLERANT: dict[str, Any] = {} if int(av.__version__.split(".")[0]) >= 19 else {"metadata_errors": "replace"}

# PyAV raises FFmpeg's errors, and for nonsense in a header also its own ValueError and kin.
FOREIGN_ERRORS = (av.FFmpegError, ValueError, LookupError, ArithmeticError, RuntimeError)


@dataclass(frozen=True, slots=True)
class AudioInfo:
    """What a container says about its sound. ``duration`` is its claim in seconds, or ``None``."""

    duration: float | None
    codec: str
    sample_rate_hz: int
    channels: int
    container: str


@contextmanager
def opened(path: Path) -> Iterator[tuple[InputContainer, AudioStream]]:
    container, stream = open_media(path)
    try:
        yield container, stream
    finally:
        container.close()


def open_media(path: Path) -> tuple[InputContainer, AudioStream]:
    """The container and its default sound track; every other track is skipped by the demuxer."""
    _require_readable_file(path)
    try:
        container = open_container(path)
    except FOREIGN_ERRORS as error:
        raise not_media(path, error) from error
    try:
        stream = _sound_track(path, container)
    except FOREIGN_ERRORS as error:
        container.close()
        raise not_media(path, error) from error
    except SourceError:
        container.close()
        raise
    return container, stream


def open_container(path: Path, **options: str) -> InputContainer:
    """The only door to FFmpeg's demuxers; ``options`` are theirs.

    A file that is held open is read through its descriptor, and FFmpeg opens nothing by name.
    """
    if isinstance(path, OpenedFile):
        closed = OPEN_OPTIONS | {"protocol_whitelist": ""}
        container: InputContainer = av.open(path.reader(), container_options=closed | options, **_TOLERANT)
    else:  # "file:" keeps FFmpeg from reading a protocol into a name such as "http:talk.wav" or "-"
        container = av.open(f"file:{path.absolute()}", container_options=OPEN_OPTIONS | options, **_TOLERANT)
    return container


def _sound_track(path: Path, container: InputContainer) -> AudioStream:
    if not container.streams.audio:
        tracks = sorted({stream.type for stream in container.streams})
        message = f"{path}: no sound track in it (tracks: {', '.join(tracks) or 'none'})"
        raise NoAudioError(message, hint="The sound may be in a file of its own.")
    stream = _best(container)
    if stream.codec_context is None:
        raise NotMediaError(f"{path}: no decoder for its sound track", hint="Convert it to FLAC or WAV first.")
    if stream.codec_context.sample_rate not in SAMPLE_RATES_HZ:
        raise NotMediaError(
            f"{path}: its header claims a sample rate of {stream.codec_context.sample_rate} Hz", hint=DAMAGED
        )
    for other in container.streams:
        if other.index != stream.index:
            other.discard = Discard.all
    stream.codec_context.thread_count = 1  # the ranges are the threads
    return stream


def _best(container: InputContainer) -> AudioStream:
    best = container.streams.best("audio")
    return best if isinstance(best, AudioStream) else container.streams.audio[0]


def _require_readable_file(path: Path) -> None:
    """FFmpeg would wait on a pipe for ever, and its message for the rest names no reason."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise SourceUnreadableError(f"{path}: is a directory", hint="Name the recordings in it.")
        if not stat.S_ISREG(mode):
            raise SourceUnreadableError(f"{path}: is no regular file", hint="Save the recording to a file first.")
        with path.open("rb") as file:
            empty = not file.read(1)
    except FileNotFoundError as error:
        raise SourceNotFoundError(f"{path}: no such file", hint="Check the name and the directory.") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise SourceUnreadableError(f"{path}: cannot be read: {reason}", hint="Check its permissions.") from error
    if empty:
        raise NotMediaError(f"{path}: is empty (0 bytes)", hint="Copy or record it again.")


def not_media(path: Path, error: Exception) -> SourceError:
    reason = (error.strerror if isinstance(error, OSError | av.FFmpegError) else None) or str(error)
    if isinstance(error, av.error.PermissionError):
        return SourceUnreadableError(f"{path}: cannot be read: {reason}", hint="Check its permissions.")
    if isinstance(error, av.error.ArgumentError):  # what format_whitelist answers
        reason = "a playlist, a picture, a text or another format that is no recording"
    return NotMediaError(
        f"{path}: not audio or video that can be decoded: {reason}",
        hint=DAMAGED,
    )


def info(container: InputContainer, stream: AudioStream) -> AudioInfo:
    duration: float | None = None
    if stream.duration and stream.time_base:
        duration = float(stream.duration * stream.time_base)
    elif container.duration:
        duration = container.duration / av.time_base
    context = stream.codec_context
    return AudioInfo(
        duration=duration if duration and duration > 0 else None,
        codec=context.name,
        sample_rate_hz=context.sample_rate,
        channels=context.channels,
        container=container.format.name,
    )


def frames(
    container: InputContainer, stream: AudioStream, on_error: Callable[[float | None], None]
) -> Iterator[AudioFrame]:
    """Every frame that can be decoded. ``on_error`` hears the second of each that cannot, and may raise."""
    first = True
    for _ in range(DEMUX_FAILURES):
        try:
            for packet in container.demux(stream):
                if first:
                    _require_clear(container, packet)
                    first = False
                try:
                    decoded = packet.decode()
                except FOREIGN_ERRORS:
                    _require_clear(container, packet)
                    on_error(None if packet.pts is None else float(packet.pts * packet.time_base))
                    continue
                yield from decoded
        except FOREIGN_ERRORS:
            on_error(None)  # the demuxer may find its way again
        else:
            return


def _require_clear(container: InputContainer, packet: Packet[AudioStream]) -> None:
    if packet.has_sidedata("encryption_info"):
        raise NotMediaError(
            f"{container.name.removeprefix('file:')}: its sound is encrypted (DRM)",
            hint="Only the player or shop that it came from can give a copy without.",
        )
