"""Which audio of a recording is transcribed: the track, and its channels mixed or separate.

A ``Voice`` is one pass of the pipeline. Usually there is one. ``channel="split"`` gives one for
each channel, ``track="all"`` one for each track; their words carry the voice's name as the speaker.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..domain.options import Options
from ..domain.transcript import Notice, Segment, Word
from ..media.decode import (
    SAMPLE_RATE_HZ,
    SILENCE_DB,
    Levels,
    Samples,
    Sound,
    Track,
    chosen_channels,
    chosen_tracks,
    decoded_blocks,
    excerpts,
    find,
    read_blocks,
)
from ..speech.detector import FRAME_S, SpeechDetector
from .checkpoint import PartResult, sentences, to_segments
from .quality_rules import letters_of

ENOUGH_SPEECH_S = 1.5  # speech in a track after which no other is checked
MIN_SPEECH_S = 0.3
SPEECH_PROBABILITY = 0.5
SOUND_DB = -70.0  # a track is silent if its loudest second is below this
CROSSTALK_DB = 10.0  # a channel with crosstalk is quieter by at least this
CROSSTALK_S = 0.5  # tolerance for the times of its words
CROSSTALK_SHARE = 0.6  # share of its words that are repeated
FRAMES_PER_S = 10  # of ``Levels``


@dataclass(slots=True)
class Voice:
    """One pass: a track or a channel, with its measured levels.

    Attributes:
        sound: a track to read, or samples in memory, (n,) or (n, channels).
        channel: of samples, see ``audio.Media``.
        name: the speaker of its words; empty if it is the only one.
    """

    sound: Sound | Samples
    channel: str = "auto"
    name: str = ""
    levels: Levels = field(default_factory=Levels)

    @property
    def is_decoded(self) -> bool:
        return not isinstance(self.sound, Sound)

    @property
    def claimed_duration_s(self) -> float | None:
        return (
            self.sound.info.duration
            if isinstance(self.sound, Sound)
            else len(self.sound) / SAMPLE_RATE_HZ
        )

    def blocks(
        self, block_s: float, threads: int, notices: list[Notice]
    ) -> Generator[Samples, None, None]:
        """See ``audio.read_blocks``."""
        if isinstance(self.sound, Sound):
            return read_blocks(
                self.sound, block_s=block_s, threads=threads, notices=notices, levels=self.levels
            )
        return decoded_blocks(
            self.sound, channel=self.channel, block_s=block_s, notices=notices, levels=self.levels
        )


def voices_of(source: Path | Samples, options: Options, notices: list[Notice]) -> list[Voice]:
    """The passes of the options over this recording. ``notices`` receives the list of tracks if
    there are several.

    Raises:
        SourceError: the recording cannot be used.
        UsageError: it has no such track or channel.
    """
    if not isinstance(source, Path):
        n_channels = source.shape[1] if source.ndim == 2 else 1
        requested = chosen_channels(max(1, n_channels), options.channel, "the samples")
        return [Voice(source, channel, name) for channel, name in requested]
    sound = find(source)
    tracks = chosen_tracks(source, sound.tracks, options.track)
    if len(sound.tracks) > 1:
        track_of = tracks[:1]
        reason = ""
        if options.track == "auto":
            track_of, reason = _with_speech(source, tracks, uses_vad=options.vad)
        tracks = tracks if options.track == "all" else track_of
        notices.append(_tracks_notice(sound.tracks, tracks, reason))
        sounds = [find(source, track.stream) for track in tracks]
    else:
        sounds = [sound]
    names = _names(tracks) if len(sounds) > 1 else [""]
    return [
        Voice(one.of_channel(channel), channel, f"{track_name} {name}".strip())
        for one, track_name in zip(sounds, names, strict=True)
        for channel, name in chosen_channels(one.info.channels, options.channel, str(source))
    ]


def _names(tracks: Sequence[Track]) -> list[str]:
    """Unique names."""
    names = [track.name for track in tracks]
    twice = {name for name, n in Counter(names).items() if n > 1}
    return [
        f"{name} {track.number}" if name in twice else name
        for name, track in zip(names, tracks, strict=True)
    ]


def _tracks_notice(tracks: Sequence[Track], chosen: Sequence[Track], reason: str) -> Notice:
    listed = "; ".join(map(str, tracks))
    taken = ", ".join(str(track.number) for track in chosen)
    took = (
        f"track {taken} was transcribed" if len(chosen) == 1 else f"tracks {taken} were transcribed"
    )
    message = (
        f"The recording has {len(tracks)} audio tracks: {listed}. "
        f"{took[0].upper()}{took[1:]}{reason}."
    )
    return Notice("several_tracks", message)


def _with_speech(
    path: Path, tracks: tuple[Track, ...], *, uses_vad: bool
) -> tuple[tuple[Track, ...], str]:
    """The first track with speech, checked at places spread over it; otherwise the first that is
    not silent.
    """
    if len(tracks) < 2:
        return tracks, ""
    detector = SpeechDetector() if uses_vad else None
    heard: list[tuple[float, float]] = []
    for track in tracks:
        speech_s = 0.0
        loudest_db = -np.inf
        for samples in excerpts(find(path, track.stream).media):
            levels = Levels()
            leveled = levels.leveled(samples)
            loudest_db = max(loudest_db, levels.loudest_db)
            if detector is None:
                n_loud = sum(int((frames > SOUND_DB).sum()) for frames in levels.frames)
                speech_s += n_loud / FRAMES_PER_S
            else:
                probabilities = detector.push(leveled, last=True)
                speech_s += float((probabilities >= SPEECH_PROBABILITY).sum() * FRAME_S)
            if speech_s >= ENOUGH_SPEECH_S:
                break
        heard.append((speech_s, loudest_db))
        if speech_s >= ENOUGH_SPEECH_S:
            break
    best = max(range(len(heard)), key=lambda i: heard[i][0])
    if heard[best][0] < MIN_SPEECH_S:
        best = 0 if heard[0][1] > SOUND_DB else max(range(len(heard)), key=lambda i: heard[i][1])
    first = tracks[0].number
    return (tracks[best],), f", because no speech was found in track {first}" if best and heard[
        best
    ][0] else ""


# --- several voices in one transcript
# -----------------------------------------------------------------------------


def spoken(
    heard: Sequence[PartResult], voices: Sequence[Voice], *, keep_words: bool
) -> tuple[tuple[Segment, ...], list[Notice]]:
    """The sentences of all voices in order of time, with notices about the voices together.

    Drops sentences that only repeat a louder voice at the same time, because one microphone picks
    up the other's speaker.
    """
    if len(voices) == 1:
        return tuple(sentences(heard, keep_words=keep_words)), []
    kept, dropped = _without_crosstalk(list(to_segments(heard, keep_words=True)), voices)
    notices = []
    if dropped:
        n = len(dropped)
        message = (
            f"{n} sentences were dropped: another channel or track has the same words at that "
            "time, and louder"
        )
        notices.append(
            Notice(
                "crosstalk", message if n > 1 else message.replace("sentences were", "sentence was")
            )
        )
    return tuple(kept if keep_words else (replace(segment, words=()) for segment in kept)), notices


def about_each(said: Sequence[tuple[str, Sequence[Notice]]]) -> Iterator[Notice]:
    """The notices of each voice with its name; equal notices once, and without names if they are
    about all voices.
    """
    names: dict[Notice, list[str]] = {}
    for name, notices in said:
        for notice in notices:
            names.setdefault(notice, []).append(name)
    for notice, of in names.items():
        yield (
            notice
            if len(of) == len(said)
            else Notice(notice.code, f"{', '.join(of)}: {notice.message}")
        )


def _without_crosstalk(
    segments: Sequence[Segment], voices: Sequence[Voice]
) -> tuple[list[Segment], list[Segment]]:
    """Sentences that are kept, and the others."""
    levels = {
        voice.name: np.concatenate([np.empty(0, np.float32), *voice.levels.frames])
        for voice in voices
    }
    words = sorted(
        (word for segment in segments for word in segment.words), key=lambda word: word.start
    )
    starts = [word.start for word in words]

    def is_repeated(word: Word) -> bool:
        first = bisect_left(starts, word.start - CROSSTALK_S)
        last = bisect_right(starts, word.start + CROSSTALK_S)
        same = (other for other in words[first:last] if letters_of(other) == letters_of(word))
        own_db = _level_db(levels[word.speaker or ""], word)
        return any(
            _level_db(levels[other.speaker or ""], word) - own_db >= CROSSTALK_DB for other in same
        )

    kept: list[Segment] = []
    dropped: list[Segment] = []
    for segment in segments:
        n_repeated = sum(map(is_repeated, segment.words))
        (dropped if n_repeated >= CROSSTALK_SHARE * len(segment.words) else kept).append(segment)
    return kept, dropped


def _level_db(frames: NDArray[np.float32], word: Word) -> float:
    part = frames[int(word.start * FRAMES_PER_S) : int(word.end * FRAMES_PER_S) + 1]
    return float(part.max()) if len(part) else SILENCE_DB
