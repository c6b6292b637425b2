"""List the audio tracks of a file, and apply the options ``track`` and ``channel``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer

from ..errors import SourceError, UsageError
from .channels import Downmix
from .container import FOREIGN_ERRORS, Media, default_track, frames, info, open_media
from .resampler import SAMPLE_RATE_HZ, Resampler, Samples

SPOTS = 32
SPOT_S = 4.0
CHANNEL_NAMES = ("left", "right")


@dataclass(frozen=True, slots=True)
class Track:
    """One audio track of a file.

    Attributes:
        number: counted from 1 among the audio tracks.
        stream: its index in the container.
        codec: FFmpeg's name of the decoder; empty without one.
        layout: channel layout by FFmpeg's name, such as ``stereo``.
        language, title: from the file's tags, or empty.
        is_default: whether players choose it.
    """

    number: int
    stream: int
    codec: str
    n_channels: int
    layout: str
    language: str
    title: str
    is_default: bool

    def __str__(self) -> str:
        title = f'"{self.title}"' if self.title else ""
        facts = (self.language, title, self.codec or "no decoder", self.layout)
        return f"{self.number} ({', '.join(filter(None, facts))})"

    @property
    def name(self) -> str:
        """A readable name."""
        return self.title or self.language or f"track {self.number}"


def tracks_of(container: InputContainer) -> tuple[Track, ...]:
    """The audio tracks of a file, in order."""
    default = default_track(container)
    return tuple(
        Track(
            number,
            stream.index,
            *_codec_of(stream),
            language="" if (code := stream.metadata.get("language", "")) == "und" else code,
            title=stream.metadata.get("title", "") or _handler_name(stream),
            is_default=stream.index == default.index,
        )
        for number, stream in enumerate(container.streams.audio, start=1)
    )


def _codec_of(stream: AudioStream) -> tuple[str, int, str]:
    """Codec, channels, layout."""
    if stream.codec_context is None:
        return "", 0, ""
    name = stream.codec_context.name.removesuffix("float").removesuffix("_fixed")
    n_channels = stream.codec_context.channels
    return name, n_channels, stream.codec_context.layout.name if n_channels else ""


def _handler_name(stream: AudioStream) -> str:
    """QuickTime's name of a track, unless it only names the program that wrote it."""
    name = stream.metadata.get("handler_name", "").strip()
    return "" if "handler" in name.lower() or "core media" in name.lower() else name


def chosen_tracks(path: Path, tracks: Sequence[Track], requested: str) -> tuple[Track, ...]:
    """The tracks for the option ``track``; for ``auto`` all candidates, the default one first.

    Raises:
        UsageError: no such track.
    """
    if requested == "auto":
        return tuple(sorted((t for t in tracks if t.codec), key=lambda track: not track.is_default))
    if requested == "all":
        return tuple(track for track in tracks if track.codec)
    found = tuple(track for track in tracks if track.number == int(requested))
    if not found:
        listed = f"{len(tracks)} audio tracks: {'; '.join(map(str, tracks))}"
        message = f"{path}: there is no audio track {requested}; the file has "
        message += listed if len(tracks) > 1 else "one"
        raise UsageError(message, hint="give the number of one of its tracks, auto or all")
    return found


def chosen_channels(n_channels: int, requested: str, what: str) -> tuple[tuple[str, str], ...]:
    """The channels for the option ``channel``: pairs of ``Media.channel`` and a speaker name, which
    is empty for a single voice.

    Raises:
        UsageError: no such channel.
    """
    if requested in ("auto", "mix") or (requested == "split" and n_channels == 1):
        return ((requested if requested != "split" else "auto", ""),)
    if requested == "split":
        others = (f"channel {i + 1}" for i in range(n_channels))
        names = CHANNEL_NAMES if n_channels == 2 else others
        return tuple((str(i), name) for i, name in enumerate(names, start=1))
    number = CHANNEL_NAMES.index(requested) + 1 if requested in CHANNEL_NAMES else int(requested)
    if number > n_channels or (requested in CHANNEL_NAMES and n_channels == 1):
        there = {1: "one channel", 2: "the channels 1 (left) and 2 (right)"}.get(
            n_channels, f"{n_channels} channels"
        )
        raise UsageError(
            f"{what}: there is no channel {requested}; it has {there}",
            hint="give the number of one of its channels, auto, mix or split",
        )
    return ((str(number), ""),)


def excerpts(media: Media) -> Iterator[Samples]:
    """Yield up to two minutes of a track in pieces of 4 s, spread over all of it by bisection.
    Skips unreadable places.
    """
    container, stream = open_media(media)
    try:
        duration_s = info(container, stream).duration or 0.0
        first_pts = stream.start_time or 0
        for at_s in _spread(duration_s):
            try:
                if at_s or duration_s > SPOT_S:
                    container.seek(first_pts + int(at_s / (stream.time_base or 1)), stream=stream)
                yield _excerpt(container, stream, SPOT_S if duration_s else SPOTS * SPOT_S)
            except FOREIGN_ERRORS:
                continue
    except SourceError:
        return
    finally:
        container.close()


def _spread(duration_s: float) -> Iterator[float]:
    """Start times: all of a short recording, otherwise places that get ever closer together."""
    n_spots = max(1, min(SPOTS, -int(-duration_s // SPOT_S)))
    step_s = duration_s / n_spots
    order = sorted(range(n_spots), key=lambda i: int(f"{i:05b}"[::-1], 2))
    yield from (i * step_s for i in order)


def _excerpt(container: InputContainer, stream: AudioStream, seconds: float) -> Samples:
    resampler: Resampler | None = None
    pieces: list[Samples] = []
    n_samples = at = 0
    for frame in frames(container, stream, lambda at_s: None):
        if resampler is None:
            resampler = Resampler(frame, "auto")
        elif not resampler.fits(frame):
            break
        pieces += resampler.push(frame, at)
        at += frame.samples
        n_samples = round(at / frame.sample_rate * SAMPLE_RATE_HZ)
        if n_samples >= seconds * SAMPLE_RATE_HZ:
            break
    pieces += resampler.finish() if resampler else ()
    return np.concatenate([np.empty(0, np.float32), *Downmix().mono(pieces)])
