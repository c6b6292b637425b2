"""A small English recogniser whose wheel carries its model: words with no download, on any CPU.

It hears far less than a Whisper model does and writes neither capitals nor punctuation. It is what ``auto`` falls back
to. Its binding holds Python's interpreter lock while it searches (5.1.1), so threads do not speed it up: windows are
decoded one after another, and other threads and Ctrl-C wait for as long as one utterance takes. That is why windows
are cut into shorter utterances.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

import numpy as np
import pocketsphinx
from numpy.typing import NDArray

from ..errors import EngineFailedError, EngineUnavailableError, UnknownNameError, UnsupportedTaskError, UsageError
from ..regions import SAMPLE_RATE_HZ, Region, Window
from ..transcript import Notice, Word
from . import AUTO, Decoded, DecodingOptions, EngineInfo, EngineRequest
from .unencoded import Unencoded

LANGUAGE = "en"
UTTERANCE_S = 10.0  # cut at pauses where longer; a search takes 0.3 to 0.8 × real time on one core
FRAMES_PER_S = 100  # parameter ``frate``
FRAME_SAMPLES = 410  # parameter ``wlen``, 25.6 ms, rounded up: less makes no frame

_FILLER = re.compile(r"<.*>|\[.*\]|\+\+.*\+\+")  # <sil>, </s>, [NOISE], ++UH++
_ALTERNATIVE = re.compile(r"\(\d+\)$")  # read(2): the second pronunciation in the dictionary


class PocketSphinxEngine:
    """One decoder, used for one window after another."""

    def __init__(self, decoder: pocketsphinx.Decoder, notices: tuple[Notice, ...] = ()) -> None:
        self._decoder: pocketsphinx.Decoder | None = decoder
        self.info = EngineInfo(
            engine="pocketsphinx",
            model=Path(decoder.config["hmm"]).name,
            device="cpu",
            compute_type="int16",
            languages=(LANGUAGE,),
            batch_size=1,
            can_sample=False,
            versions={"pocketsphinx": version("pocketsphinx")},
            warnings=notices,
        )

    def notices(self, options: DecodingOptions) -> tuple[Notice, ...]:
        asked = {
            "vocabulary": bool(options.vocabulary),
            "prompt": bool(options.prompt),
            "beam_size": options.beam_size > 1,
        }
        return tuple(
            Notice(f"{name}_ignored", f"engine pocketsphinx takes no {name.replace('_', ' ')}: it was left out")
            for name, is_asked in asked.items()
            if is_asked
        )

    def encode(self, windows: Sequence[Window]) -> Unencoded:
        return Unencoded(tuple(windows))

    def detect_language(self, encoded: Unencoded) -> list[dict[str, float]]:
        """The one language it knows; nothing is measured."""
        return [{LANGUAGE: 1.0} for _ in encoded.windows]

    def decode(self, encoded: Unencoded, languages: Sequence[str], options: DecodingOptions) -> list[Decoded]:
        """Transcribe each window.

        Of ``options`` only the task means anything to it; ``notices`` says so.

        Raises:
            UnsupportedTaskError: it was asked to translate, or for another language.
            EngineFailedError: the recogniser failed.
        """
        if options.task != "transcribe":
            raise UnsupportedTaskError(
                f"engine pocketsphinx cannot {options.task}", hint="choose a multilingual Whisper model"
            )
        return [self._decode(window, language) for window, language in zip(encoded.windows, languages, strict=True)]

    def align(self, encoded: Unencoded, decoded: Sequence[Decoded], options: DecodingOptions) -> list[list[Word]]:
        """The times found while decoding."""
        return [list(item.words or ()) for _, item in zip(encoded.windows, decoded, strict=True)]

    def close(self) -> None:
        self._decoder = None

    def _decode(self, window: Window, language: str) -> Decoded:
        if language != LANGUAGE:
            raise UnsupportedTaskError(
                f"engine pocketsphinx knows English only, not {language!r}", hint="choose a multilingual Whisper model"
            )
        words = tuple(self._words(window))
        return Decoded("".join(word.text for word in words), LANGUAGE, temperature=0.0, words=words)

    def _words(self, window: Window) -> Iterator[Word]:
        for utterance in _utterances(window):
            if len(utterance.samples) < FRAME_SAMPLES:
                continue
            for segment in self._search(utterance.samples):
                if not _FILLER.fullmatch(segment.word):
                    yield _word(segment, utterance)

    def _search(self, samples: NDArray[np.float32]) -> list[pocketsphinx.Segment]:
        """Recognise one utterance: segments in frames from its start, silence and noise among them."""
        if self._decoder is None:
            raise EngineFailedError("engine pocketsphinx was closed", hint="load it again")
        pcm = (np.clip(samples, -1.0, 1.0) * np.iinfo(np.int16).max).astype("<i2").tobytes()
        try:
            self._decoder.reinit_feat()  # forgets the noise of the windows before: any order gives the same words
            self._decoder.start_utt()
            # In one piece, so that the mean of the whole utterance normalises its start too: in pieces of 1 s the mean
            # is a running estimate, and a recording with another microphone than the model's starts with nonsense.
            self._decoder.process_raw(pcm, full_utt=True)
            self._decoder.end_utt()
            return list(self._decoder.seg() or ())
        except RuntimeError as error:
            raise EngineFailedError(f"engine pocketsphinx failed: {error}") from error


def load(request: EngineRequest) -> PocketSphinxEngine:
    """Load the model that the wheel carries.

    Raises:
        UnknownNameError: another model was named.
        UsageError: a device or a precision was asked for that it does not have.
        EngineUnavailableError: the model in the wheel cannot be read.
    """
    if request.device not in (AUTO, "cpu"):
        raise UsageError(
            f"engine pocketsphinx runs on the CPU, not on {request.device!r}", hint="leave out the device, or say cpu"
        )
    if request.compute_type != AUTO:
        raise UsageError(
            f"engine pocketsphinx has no compute type {request.compute_type!r}", hint="leave out the compute type"
        )
    try:
        engine = PocketSphinxEngine(pocketsphinx.Decoder(loglevel="FATAL"), request.notices)
    except (RuntimeError, ValueError) as error:
        raise EngineUnavailableError(
            f"engine pocketsphinx cannot load its model: {error}", hint="pip install --force-reinstall pocketsphinx"
        ) from error
    if request.model not in (AUTO, engine.info.model):
        raise UnknownNameError(
            f"engine pocketsphinx has no model {request.model!r}",
            hint=f"it carries one, {engine.info.model}: leave out the model, or choose engine ctranslate2",
        )
    return engine


def _utterances(window: Window) -> Iterator[Window]:
    """The window cut in the middle of pauses, nothing left out; none where there is no speech."""
    if not window.regions:
        return
    groups = list(_split_at_pauses(window.regions))
    cuts = [(before[-1].end + after[0].start) / 2 for before, after in pairwise(groups)]
    starts = [0, *(round((cut - window.start) * SAMPLE_RATE_HZ) for cut in cuts)]
    for start, stop, regions in zip(starts, [*starts[1:], len(window.samples)], groups, strict=True):
        yield Window(window.start + start / SAMPLE_RATE_HZ, window.samples[start:stop], regions)


def _split_at_pauses(regions: tuple[Region, ...]) -> Iterator[tuple[Region, ...]]:
    """Halve while longer than an utterance should be: at a long pause, preferably one that divides evenly."""
    if len(regions) == 1 or regions[-1].end - regions[0].start <= UTTERANCE_S:
        yield regions
        return

    def merit(i: int) -> float:
        shorter = min(regions[i - 1].end - regions[0].start, regions[-1].end - regions[i].start)
        return (regions[i].start - regions[i - 1].end) * math.sqrt(shorter)

    cut = max(range(1, len(regions)), key=merit)
    yield from _split_at_pauses(regions[:cut])
    yield from _split_at_pauses(regions[cut:])


def _word(segment: pocketsphinx.Segment, utterance: Window) -> Word:
    """On the original clock; ``end_frame`` is the last frame of the word."""
    start = utterance.start + segment.start_frame / FRAMES_PER_S
    end = utterance.start + (segment.end_frame + 1) / FRAMES_PER_S
    return Word(
        start=min(start, utterance.end),
        end=min(end, utterance.end),
        text=" " + _ALTERNATIVE.sub("", segment.word),
        probability=min(segment.prob, 1.0),  # posterior of the word in the lattice
    )
