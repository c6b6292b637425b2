"""Open recordings: allowed formats, audio tracks, frames, and errors for everything else."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.stream import Discard

from ..errors import (
    NoAudioError,
    NotMediaError,
    SourceError,
    SourceNotFoundError,
    SourceUnreadableError,
)
from .openat import OpenedFile, Patches, PositionedReader

# Other rates mean a damaged header; 1 Hz would make an hour of every 7 kB.
SAMPLE_RATES_HZ = range(1_000, 1_000_000)
DEMUX_FAILURES = 16
TAGS = (b"TAG", b"ID3", b"APE")  # metadata of MP3 files, which other programs append to any file
DAMAGED = "the file may be damaged, truncated, or not of the type that its name says"

# Self-contained formats only. Playlists (hls, dash, concat, imf, sdp …) name other files or URLs;
# raw and image formats accept anything.
CONTAINERS = (
    "3gp,aa,aac,aax,ac3,ac4,act,aea,aiff,amr,amrnb,amrwb,ape,apac,apm,aptx,asf,"
    "asf_o,ast,au,avi,binka,bink,bonk,caf,codec2,daud,dsf,dss,dts,dtshd,dv,eac3,epaf,"
    "flac,flv,g722,g723_1,g729,gsm,gxf,iamf,iff,ilbc,ircam,kux,laf,lc3,live_flv,loas,"
    "lvf,matroska,webm,mlp,mmf,mov,mp4,m4a,moflex,mp3,mpc,mpc8,mpeg,mpegts,mpegvideo,"
    "msf,mtaf,mxf,nistsphere,nsv,nut,nuv,ogg,oma,osq,paf,pva,pvf,qcp,qoa,rka,rm,sbc,"
    "sds,shn,sox,spdif,swf,tak,truehd,tta,ty,voc,vqf,w64,wav,wavarc,wsd,wtv,wv,xa,"
    "xwma"
)
OPEN_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": CONTAINERS}

# Ignore tags in a broken encoding. PyAV 19 always does and no longer takes the argument.
_TOLERANT: dict[str, Any] = (
    {} if int(av.__version__.split(".")[0]) >= 19 else {"metadata_errors": "replace"}
)

# PyAV raises FFmpeg's errors, and built-in exceptions for broken headers.
FOREIGN_ERRORS = (av.FFmpegError, ValueError, LookupError, ArithmeticError, RuntimeError)


@dataclass(frozen=True, slots=True)
class AudioInfo:
    """A container's metadata about its audio. ``duration`` is in seconds or ``None``; it can be
    wrong.
    """

    duration: float | None
    codec: str
    sample_rate_hz: int
    channels: int
    container: str


@dataclass(frozen=True, slots=True)
class Media:
    """Which audio of which file to read.

    Attributes:
        path: the file.
        stream: index of the audio track in the container; ``None`` for the default track.
        channel: ``auto``, ``mix`` or a channel number, counted from 1; see ``resampler.Mix``.
        begin, end: byte range of the file; ``end`` is ``None`` for the end of the file.
        demuxer: FFmpeg's name of the format, for headerless audio; otherwise empty.
        options: further options of the demuxer.
        patches: corrected bytes of the header; see ``headers``.
    """

    path: Path
    stream: int | None = None
    channel: str = "auto"
    begin: int = 0
    end: int | None = None
    demuxer: str = ""
    options: dict[str, str] = field(default_factory=dict)
    patches: Patches = field(default_factory=dict)

    @property
    def is_part(self) -> bool:
        """Whether FFmpeg reads anything other than the bytes of the file."""
        return self.begin > 0 or self.end is not None or bool(self.patches)

    @property
    def url(self) -> str:
        """URL of the whole file. "file:" stops FFmpeg from reading "http:talk.wav" as a
        protocol.
        """
        return f"file:{os.path.abspath(self.path)}"  # noqa: PTH100 - uses os.fspath


@contextmanager
def opened(media: Media) -> Iterator[tuple[InputContainer, AudioStream]]:
    container, stream = open_media(media)
    try:
        yield container, stream
    finally:
        container.close()


def open_media(media: Media) -> tuple[InputContainer, AudioStream]:
    """Open the container and the audio track; the demuxer skips other tracks."""
    container = open_container(media)
    try:
        stream = _sound_track(media, container)
    except FOREIGN_ERRORS as error:
        container.close()
        raise not_media(media.path, error) from error
    except SourceError:
        container.close()
        raise
    return container, stream


def open_container(media: Media) -> InputContainer:
    """Open the container with all tracks. Only this function opens FFmpeg's demuxers.

    Open files and byte ranges are read through Python, so FFmpeg opens nothing by name.

    Raises:
        SourceNotFoundError, SourceUnreadableError, NotMediaError: opening failed.
    """
    _require_readable_file(media.path)
    options = OPEN_OPTIONS | media.options
    if media.demuxer:
        options |= {"format_whitelist": media.demuxer}
    source: str | io.RawIOBase = media.url
    if isinstance(media.path, OpenedFile):
        source = media.path.reader(media.begin, media.end, media.patches)
    elif media.is_part:
        with media.path.open("rb") as file:
            source = PositionedReader(
                file.fileno(), media.url, media.begin, media.end, media.patches
            )
    if not isinstance(source, str):
        options |= {"protocol_whitelist": ""}
    try:
        container = av.open(
            source, format=media.demuxer or None, container_options=options, **_TOLERANT
        )
    except FOREIGN_ERRORS as error:
        raise not_media(media.path, error) from error
    assert isinstance(container, InputContainer)
    return container


def _sound_track(media: Media, container: InputContainer) -> AudioStream:
    path = media.path
    if not container.streams.audio:
        tracks = sorted({stream.type for stream in container.streams})
        raise NoAudioError(
            f"{path}: no audio track (tracks: {', '.join(tracks) or 'none'})",
            hint="the audio may be in a separate file",
        )
    stream = default_track(container)
    if media.stream is not None:
        stream = next(
            (found for found in container.streams.audio if found.index == media.stream), stream
        )
    if stream.codec_context is None:
        raise NotMediaError(
            f"{path}: no decoder for its audio track",
            hint="convert it with a program that can play it, for example to FLAC",
        )
    if stream.codec_context.sample_rate not in SAMPLE_RATES_HZ:
        raise NotMediaError(
            f"{path}: its header claims a sample rate of {stream.codec_context.sample_rate} Hz",
            hint=DAMAGED,
        )
    for other in container.streams:
        if other.index != stream.index:
            other.discard = Discard.all
    stream.codec_context.thread_count = 1  # parallelism comes from ranges
    return stream


def default_track(container: InputContainer) -> AudioStream:
    """FFmpeg's default track, or the first one with a decoder."""
    best = container.streams.best("audio")
    if isinstance(best, AudioStream) and best.codec_context is not None:
        return best
    decodable = (stream for stream in container.streams.audio if stream.codec_context is not None)
    return next(decodable, container.streams.audio[0])


def _require_readable_file(path: Path) -> None:
    """Checked first, because FFmpeg blocks on a pipe and gives no reason for other failures."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise SourceUnreadableError(f"{path} is a directory", hint="name the recordings in it")
        if not stat.S_ISREG(mode):
            raise SourceUnreadableError(
                f"{path} is not a regular file", hint="save the recording to a file first"
            )
        with path.open("rb") as file:
            empty = not file.read(1)
    except FileNotFoundError as error:
        raise SourceNotFoundError(
            f"{path}: no such file", hint="check the name and the directory"
        ) from error
    except (OSError, ValueError) as error:  # ValueError: the name contains NUL
        raise SourceUnreadableError.because(path, error) from error
    if empty:
        raise NotMediaError(f"{path} is empty (0 bytes)", hint="copy or record it again")


def not_media(path: Path, error: Exception) -> SourceError:
    reason = (error.strerror if isinstance(error, OSError | av.FFmpegError) else None) or str(error)
    if isinstance(error, av.error.PermissionError):
        return SourceUnreadableError.because(path, error)
    if isinstance(error, av.error.ArgumentError):  # from format_whitelist
        reason = "a playlist, a picture, a text or another format that is not a recording"
    return NotMediaError(
        f"{path}: not audio or video that can be decoded: {reason}",
        hint=DAMAGED,
    )


def info(container: InputContainer, stream: AudioStream) -> AudioInfo:
    duration: float | None = _tagged_duration_s(stream)
    if duration is None and stream.duration and stream.time_base:
        duration = float(stream.duration * stream.time_base)
    elif duration is None and container.duration:
        duration = container.duration / av.time_base
    context = stream.codec_context
    return AudioInfo(
        duration=duration if duration and duration > 0 else None,
        codec=context.name,
        sample_rate_hz=context.sample_rate,
        channels=context.channels,
        container=container.format.name,
    )


def _tagged_duration_s(stream: AudioStream) -> float | None:
    """Matroska's tag, such as 00:00:10.003000000; the container's duration may be the video's."""
    try:
        hours, minutes, seconds = stream.metadata.get("DURATION", "").split(":")
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    except ValueError:
        return None


SEEK_BACK_S = 5.0  # to reach a long subtitle
OWN_DURATIONS = {
    "mov",
    "avi",
}  # containers with a duration for each track


def plays_on_after(media: Media, end_s: float, margin_s: float) -> bool:
    """Whether video or subtitles continue to the claimed end, so that the file is complete."""
    container = open_container(media)
    try:
        claim_s = (container.duration or 0) / av.time_base
        if container.format.name.partition(",")[0] in OWN_DURATIONS or len(container.streams) < 2:
            return False
        origin = container.start_time or 0
        container.seek(origin + int(max(end_s, claim_s - margin_s - SEEK_BACK_S) * av.time_base))
        for packet in container.demux():
            if packet.pts is None or packet.stream.type == "audio":
                continue
            packet_end_s = (
                float((packet.pts + (packet.duration or 0)) * packet.time_base)
                - origin / av.time_base
            )
            if packet_end_s >= claim_s - margin_s:
                return True
    except FOREIGN_ERRORS:
        return False
    finally:
        container.close()
    return False


def frames(
    container: InputContainer, stream: AudioStream, on_error: Callable[[float | None], None]
) -> Iterator[AudioFrame]:
    """Yield every frame that can be decoded.

    Calls ``on_error`` with the time in seconds of each failure; it may raise.
    """
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
                    if bytes(packet)[:3] in TAGS:  # where another MP3 file begins
                        continue
                    on_error(None if packet.pts is None else float(packet.pts * packet.time_base))
                    continue
                yield from decoded
        except FOREIGN_ERRORS:
            on_error(None)  # the demuxer may recover
        else:
            return


def _require_clear(container: InputContainer, packet: Packet[AudioStream]) -> None:
    if packet.has_sidedata("encryption_info"):
        raise NotMediaError(
            f"{container.name.removeprefix('file:')}: its audio is encrypted (DRM)",
            hint="get a copy without it from the player or shop",
        )
