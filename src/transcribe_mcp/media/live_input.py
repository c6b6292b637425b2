"""Samples of a live stream, as clients send them -> float32 at 16 kHz, mono."""

from __future__ import annotations

import wave
from collections.abc import Iterator
from dataclasses import dataclass

import av
import numpy as np
from av.audio.codeccontext import AudioCodecContext
from av.audio.frame import AudioFrame

from .resampler import SAMPLE_RATE_HZ, Resampler, Samples

PIECE_S = 0.016  # half a frame of voice detection
CHUNK_S = 1.0  # maximum length resampled at once
PCM = "pcm_s16le"
CODECS = (PCM, "pcm_mulaw", "pcm_alaw")  # FFmpeg's names
_BYTES = {PCM: 2}


@dataclass(frozen=True, slots=True)
class LiveFormat:
    """The format of a stream without a header.

    Attributes:
        codec: one of ``CODECS``: 16 bits, or G.711 with one byte per sample.
        rate_hz: samples per second.
        channels: 1, or 2 interleaved, which are mixed.
    """

    codec: str = PCM
    rate_hz: int = 24_000
    channels: int = 1

    @property
    def sample_bytes(self) -> int:
        """Of all channels."""
        return _BYTES.get(self.codec, 1) * self.channels


class LiveInput:
    """Decodes and resamples a stream. It buffers at most 2 × ``PIECE_S``."""

    def __init__(self, form: LiveFormat) -> None:
        self._form = form
        self._rest = b""  # part of a sample
        self._n_samples = 0
        self._resampler: Resampler | None = None
        context = av.CodecContext.create(form.codec, "r")
        assert isinstance(context, AudioCodecContext)
        context.sample_rate = form.rate_hz
        context.layout = "mono" if form.channels == 1 else "stereo"
        self._decoder = context

    def push(self, data: bytes) -> Samples:
        """Take bytes of any length; return the samples (n,) that are finished."""
        data = self._rest + data
        n_bytes = len(data) - len(data) % self._form.sample_bytes
        self._rest = data[n_bytes:]
        step = round(CHUNK_S * self._form.rate_hz) * self._form.sample_bytes
        chunks = [data[at : min(at + step, n_bytes)] for at in range(0, n_bytes, step)]
        return self._joined(piece for chunk in chunks for piece in self._resample(chunk))

    def finish(self) -> Samples:
        """Return the buffered samples; the next ones start a new stream."""
        resampler = self._resampler
        self._resampler = None
        self._n_samples = 0
        self._rest = b""
        return self._joined(resampler.finish() if resampler is not None else iter(()))

    def _resample(self, chunk: bytes) -> Iterator[Samples]:
        for frame in self._decoder.decode(av.Packet(chunk)):
            assert isinstance(frame, AudioFrame)
            if self._resampler is None:
                self._resampler = Resampler(frame, "mix", piece_s=PIECE_S)
            yield from self._resampler.push(frame, self._n_samples)
            self._n_samples += frame.samples

    def _joined(self, pieces: Iterator[Samples]) -> Samples:
        return np.concatenate([np.empty(0, np.float32), *pieces])


class WavFile:
    """A WAV file of samples at 16 kHz, mono, 16 bits. It is complete once closed."""

    def __init__(self, path: str) -> None:
        self._file = wave.open(path, "wb")  # noqa: SIM115 - see close
        self._file.setparams((1, 2, SAMPLE_RATE_HZ, 0, "NONE", ""))

    def write(self, samples: Samples) -> None:
        """Add samples (n,) within ±1; louder ones are clipped."""
        scaled = np.round(np.clip(samples, -1.0, 1.0) * 32767)
        self._file.writeframesraw(scaled.astype("<i2").tobytes())

    def close(self) -> None:
        self._file.close()
