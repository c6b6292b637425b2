"""Makes training batches: processes that plan windows, and their rendering on the GPU."""

from __future__ import annotations

import gc
import pickle
import time
from dataclasses import dataclass, replace
from multiprocessing.queues import Queue
from pathlib import Path

import numpy as np
import torch
from make_speech import LANGUAGE_SHARES, SHARD_SAMPLES
from speech import SAMPLE_RATE_HZ, Record
from tokenizers import Tokenizer
from torch import Tensor
from transformers.audio_utils import mel_filter_bank
from windows import (
    FRAME_S,
    STYLES,
    Piece,
    Target,
    TargetWriter,
    Task,
    draw_layout,
    lay_out,
    phoneme_frames,
)

N_FFT = 400
HOP = 160


@dataclass(frozen=True, slots=True)
class Kind:
    """The fixed geometry of a batch, so that kernels are compiled once for each kind."""

    name: str
    seconds: float
    windows: int
    tokens: int


KINDS = {
    "short": Kind("short", 8.0, 448, 80),
    "full": Kind("full", 30.0, 128, 224),
    "long": Kind("long", 30.0, 80, 352),  # with earlier text before it, or in upper case
}
NON_SPEECH_SHARE = 0.06


@dataclass(slots=True)
class Batch:
    """NumPy arrays of one planned batch; b windows, t tokens, n encoder frames, p pieces of
    speech.
    """

    kind: str
    ids: np.ndarray  # (b, t + 1) int16
    n_prompt: np.ndarray  # (b,) tokens before the start token, which are not learned
    n_ids: np.ndarray  # (b,)
    spans: np.ndarray  # (b, t + 1, 2) int16
    phonemes: np.ndarray  # (b, n) uint8
    source: np.ndarray  # (p,) int64 first sample in the pool
    target: np.ndarray  # (p,) int64 first sample in the batch
    length: np.ndarray  # (p,) int64
    gain: np.ndarray  # (p,) float32
    noise: np.ndarray  # (b, 2) float32 gains of white and of recorded noise
    pad_from: (
        np.ndarray
    )  # (b,) mel frame from which the window is padding, as a cut-out piece would be


class Library:
    """All records whose samples are on the GPU, by language."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known = set[str]()
        self._records: dict[str, list[tuple[Record, int]]] = {
            language: [] for language in LANGUAGE_SHARES
        }

    def refresh(self) -> None:
        for path in sorted(self._folder.glob("*.ready")):
            if path.name in self._known:
                continue
            self._known.add(path.name)
            base = int(path.stem.removeprefix("shard_")) * SHARD_SAMPLES
            for record in pickle.loads(path.with_suffix(".pickle").read_bytes()):
                self._records[record.language].append((record, base))

    def draw(self, language: str, rng: np.random.Generator) -> tuple[Record, int]:
        records = self._records[language]
        return records[rng.integers(len(records))]

    def __bool__(self) -> bool:
        return all(self._records.values())


class Planner:
    """Draws windows; one in each planning process."""

    def __init__(self, library: Library, tokenizer: Tokenizer, seed: int) -> None:
        self._library = library
        self._writer = TargetWriter(tokenizer)
        self._rng = np.random.default_rng(seed)

    def _previous(self, language: str, pieces: list[Piece]) -> str:
        texts = [
            self._library.draw(language, self._rng)[0].text for _ in range(self._rng.integers(1, 4))
        ]
        if pieces and pieces[0].cut > 0:
            texts.append(
                " ".join(w[0] for w in pieces[0].record.words if w[1] < pieces[0].cut - 1e-3)
            )
        return " ".join(texts)

    def window(self, kind: Kind) -> tuple[list[Piece], Target]:
        rng = self._rng
        language = str(rng.choice(list(LANGUAGE_SHARES), p=list(LANGUAGE_SHARES.values())))
        while True:
            task = Task(timestamps=bool(rng.random() < 0.5))
            if kind.name != "short" and rng.random() < NON_SPEECH_SHARE:
                return [], self._writer.no_speech(language, task)
            style = str(rng.choice(list(STYLES), p=list(STYLES.values())))
            layout = draw_layout(style, kind.seconds, rng)
            pieces = lay_out(layout, lambda: self._library.draw(language, rng), kind.seconds, rng)
            if not any(piece.words() for piece in pieces):
                continue
            if kind.name == "long":
                upper = bool(rng.random() < 0.25)
                task = Task(
                    task.timestamps, upper, "" if upper else self._previous(language, pieces)
                )
            target = self._writer.speech(language, pieces, task)
            if len(target.ids) <= kind.tokens + 1:
                return pieces, target

    def batch(self, kind: Kind) -> Batch:
        rng = self._rng
        b = kind.windows
        t = kind.tokens
        samples = int(kind.seconds * SAMPLE_RATE_HZ)
        frames = int(kind.seconds / FRAME_S)
        ids = np.full((b, t + 1), self._writer.ids.end, np.int16)
        spans = np.full((b, t + 1, 2), -1, np.int16)
        n_ids = np.zeros(b, np.int64)
        n_prompt = np.zeros(b, np.int64)
        phonemes = np.zeros((b, frames), np.uint8)
        pad_from = np.full(b, 2 * frames)
        places: list[tuple[int, int, int, float]] = []
        for row in range(b):
            pieces, target = self.window(kind)
            n_ids[row] = len(target.ids)
            n_prompt[row] = target.n_prompt
            ids[row, : len(target.ids)] = target.ids
            spans[row, : len(target.ids)] = target.spans
            phonemes[row] = phoneme_frames(pieces, frames)
            for piece in pieces:
                first = row * samples + int(piece.at * SAMPLE_RATE_HZ)
                source = piece.base + piece.record.offset + int(piece.cut * SAMPLE_RATE_HZ)
                length = min(int(piece.duration * SAMPLE_RATE_HZ), (row + 1) * samples - first)
                places.append((source, first, length, piece.gain))
            if pieces and rng.random() < 0.25:
                pad_from[row] = min(
                    2 * frames,
                    int((pieces[-1].at + pieces[-1].duration + rng.uniform(0, 0.6)) * 100),
                )
        spans = np.minimum(spans, frames)
        columns = list(zip(*places, strict=True))
        noise = np.stack([self._white_gains(b), self._noise_gains(b, n_ids)], axis=1).astype(
            np.float32
        )
        return Batch(
            kind.name, ids, n_prompt, n_ids, spans, phonemes,
            *(np.array(c, np.int64) for c in columns[:3]), np.array(columns[3], np.float32), noise,
            pad_from,
        )  # fmt: skip

    def _white_gains(self, b: int) -> np.ndarray:
        loud = np.where(
            self._rng.random(b) < 0.1, self._rng.uniform(-3, -2, b), self._rng.uniform(-5, -3, b)
        )
        return np.where(self._rng.random(b) < 0.15, 0.0, 10**loud)

    def _noise_gains(self, b: int, n_ids: np.ndarray) -> np.ndarray:
        """Recorded noise: faint behind a third of the speech; of any level where nobody speaks
        (sequences of 5 ids).
        """
        behind = np.where(self._rng.random(b) < 0.35, 10 ** self._rng.uniform(-3.5, -1.3, b), 0.0)
        alone = np.where(self._rng.random(b) < 0.85, 10 ** self._rng.uniform(-3, 0.6, b), 0.0)
        return np.where(n_ids == 5, alone, behind)


def plan_forever(
    folder: Path, tokenizer_path: Path, seed: int, kinds: Queue, batches: Queue
) -> None:
    """Body of a planning process: answers every (kind, share of its windows) asked for with one
    batch.
    """
    gc.disable()  # half a million records would be walked again and again
    library = Library(folder)
    planner = Planner(library, Tokenizer.from_file(str(tokenizer_path)), seed)
    refreshed = -10.0
    while True:
        name, share = kinds.get()
        kind = KINDS[name]
        while time.monotonic() - refreshed > 5 or not library:
            library.refresh()
            refreshed = time.monotonic()
            if not library:
                time.sleep(0.2)
        batches.put(planner.batch(replace(kind, windows=max(2, int(kind.windows * share)))))


class Renderer:
    """Turns a planned batch into mel spectrograms on the device."""

    def __init__(self, pool: Tensor, noises: Tensor, device: torch.device) -> None:
        """pool: (n,) int16 all shards' samples; noises: (m,) int16 clips of noise end to end."""
        self._pool = pool
        self._noises = noises
        self._device = device
        self._window = torch.hann_window(N_FFT, device=device)
        self._filters = {
            n: torch.tensor(
                mel_filter_bank(
                    201, n, 0.0, 8000.0, SAMPLE_RATE_HZ, norm="slaney", mel_scale="slaney"
                ).T,
                dtype=torch.float32, device=device,
            )
            for n in (80, 128)
        }  # fmt: skip

    def wave(self, batch: Batch) -> Tensor:
        """(b, samples) float32."""
        kind = KINDS[batch.kind]
        b = batch.ids.shape[0]
        n = int(kind.seconds * SAMPLE_RATE_HZ)
        source, target, length = (self._to(a) for a in (batch.source, batch.target, batch.length))
        gain = self._to(batch.gain)
        total = int(batch.length.sum())
        piece = torch.repeat_interleave(
            torch.arange(len(length), device=self._device), length, output_size=total
        )
        within = torch.arange(total, device=self._device) - (length.cumsum(0) - length)[piece]
        wave = torch.zeros(b * n, device=self._device)
        wave[target[piece] + within] = self._pool[source[piece] + within].float() * (
            gain[piece] / 32768
        )
        wave = wave.view(b, n)
        time = torch.arange(n, device=self._device)
        swell = (
            torch.rand(b, 1, device=self._device)
            * (torch.rand(b, 1, device=self._device) < 0.2)
            * 0.6
        )
        rate = torch.empty(b, 1, device=self._device).uniform_(0.3, 3.0) / SAMPLE_RATE_HZ
        wave = wave * (
            1
            - swell
            * (0.5 + 0.5 * torch.sin(time * rate + 6.28 * torch.rand(b, 1, device=self._device)))
        )
        gains = self._to(batch.noise)
        start = torch.randint(0, len(self._noises) - n, (b, 1), device=self._device)
        noise = self._noises[start + time].float() / 32768
        wave = wave + gains[:, 1:] * noise + gains[:, :1] * torch.randn(b, n, device=self._device)
        return wave.clamp(-1, 1)

    def mel(self, wave: Tensor, n_mels: int, pad_from: np.ndarray | None = None) -> Tensor:
        """(b, samples) -> (b, n_mels, samples / 160), Whisper's log-mel; zero from frame pad_from
        on.
        """
        spectrum = (
            torch.stft(wave, N_FFT, HOP, window=self._window, return_complex=True)[..., :-1].abs()
            ** 2
        )
        mel = (self._filters[n_mels] @ spectrum).clamp(min=1e-10).log10()
        mel = (torch.maximum(mel, mel.amax((1, 2), keepdim=True) - 8) + 4) / 4
        if pad_from is not None:
            frame = torch.arange(mel.shape[2], device=self._device)
            mel = mel.masked_fill((frame >= self._to(pad_from)[:, None])[:, None], 0.0)
        return mel

    def _to(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self._device, non_blocking=True)
