"""A small English recogniser whose wheel carries its model: words with no download, on any CPU.

It hears far less than a Whisper model does and writes neither capitals nor punctuation. It is what ``auto`` falls back
to. Its binding holds Python's interpreter lock while it searches (5.1.1), so threads do not speed it up: windows are
decoded one after another, and other threads stand still for as long as one utterance takes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pocketsphinx
from numpy.typing import NDArray

from ..errors import EngineFailedError, EngineUnavailableError, UnknownNameError, UnsupportedTaskError, UsageError
from ..regions import Window
from ..transcript import Notice, Word
from . import AUTO, Decoded, DecodingOptions, EngineInfo, EngineRequest
from .unencoded import Unencoded

LANGUAGE = "en"
SAMPLE_RATE_HZ = 16_000
FRAMES_PER_S = 100  # parameter ``frate``
FRAME_SAMPLES = 410  # parameter ``wlen``, 25.6 ms, rounded up: less makes no frame

_FILLER = re.compile(r"<.*>|\[.*\]|\+\+.*\+\+")  # <sil>, </s>, [NOISE], ++UH++
_ALTERNATIVE = re.compile(r"\(\d+\)$")  # read(2): the second pronunciation in the dictionary


class PocketSphinxEngine:
    """One decoder, used for one window after another."""

    def __init__(self, decoder: pocketsphinx.Decoder) -> None:
        self._decoder: pocketsphinx.Decoder | None = decoder
        self.info = EngineInfo(
            engine="pocketsphinx",
            model=Path(decoder.config["hmm"]).name,
            device="cpu",
            compute_type="int16",
            languages=(LANGUAGE,),
            batch_size=1,
            versions={"pocketsphinx": version("pocketsphinx")},
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
        if not window.regions or len(window.samples) < FRAME_SAMPLES:
            return
        for segment in self._search(window.samples):
            if not _FILLER.fullmatch(segment.word):
                yield _word(segment, window)

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
        engine = PocketSphinxEngine(pocketsphinx.Decoder(loglevel="FATAL"))
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


def _word(segment: pocketsphinx.Segment, window: Window) -> Word:
    """On the original clock; ``end_frame`` is the last frame of the word."""
    start = window.start + segment.start_frame / FRAMES_PER_S
    end = window.start + (segment.end_frame + 1) / FRAMES_PER_S
    return Word(
        start=min(start, window.end),
        end=min(end, window.end),
        text=" " + _ALTERNATIVE.sub("", segment.word),
        probability=min(segment.prob, 1.0),  # posterior of the word in the lattice
    )
