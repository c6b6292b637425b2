"""The engine: windows in, words out. See ``engines.Engine``."""

from __future__ import annotations

import gc
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from queue import Empty, LifoQueue
from typing import TypeVar
from weakref import WeakSet

import numpy as np
import torch
from torch import Tensor

from ...align.times import ENCODER_FRAME_S, time_words
from ...align.words import split_words
from ...domain.transcript import Notice, Word
from ...errors import EngineFailedError, OutOfMemoryError, WindowDataError
from ...speech.features_torch import log_mel_windows
from ...speech.library_errors import library_errors
from ...speech.regions import Window
from ...speech.silero_gpu import SileroGpu, launch_errors
from .. import (
    Decoded,
    DecodesInRounds,
    DecodingOptions,
    EngineInfo,
    RetryPolicy,
    VoiceDetector,
    accept,
)
from ..malloc import give_back_freed
from ..tokenizer import CONTEXT_TOKENS, Vocabulary
from .alignment import Search, teacher_forced_queries, token_starts
from .beam import search
from .caches import AudioCache, AudioRow
from .checkpoint import GenerationConfig
from .continuous_batching import DecodedTokens, Steps, on, run, side_stream
from .decode_slots import MAX_TOKENS, Limits, Request, Slots, StepRules
from .logit_filters import make_rules
from .model import Whisper
from .quantized_states import AudioStates

SHORT_CONTEXT_TOKENS = (
    256  # positions for a text without a long prompt: half the memory of the caches
)

Key = tuple[int, int, tuple[int, ...], str, DecodingOptions]
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class DeviceBackend:
    """How a device runs the model.

    Attributes:
        model: the weights, and the device's operations.
        encode: log-mel spectrograms (B, n_mels, 3000) -> the decoder's audio input.
        make_steps: slots -> the runner of their steps.
        search: finds token times.
        encoded_at_once: windows per encoder call.
        most_rows: maximum number of windows decoded at once.
        room: allowed sizes of slots.
        workers: threads that each process a part of the windows with ``threads_each`` torch
            threads; if that is 0, the caller's thread does the work. On a CPU several workers with
            few threads are faster than one with all, because a step has many small operations,
            after each of which threads wait for each other.
        give_back: frees the encoder's workspace.
        notices: about limitations.
    """

    model: Whisper
    encode: Callable[[Tensor], AudioCache | AudioStates]
    make_steps: Callable[[Slots], Steps]
    search: Search
    encoded_at_once: int
    most_rows: int
    room: tuple[int, ...]
    workers: int = 1
    threads_each: int = 0
    give_back: Callable[[], None] = lambda: None
    notices: tuple[Notice, ...] = ()


@dataclass(frozen=True, slots=True)
class EncodedWindows:
    """Windows, their keys and values on the device, and their decoded texts so far, for ``align``.

    ``unproved``: whether windows are finite, (n,) bool per part, on the device. Reading it waits
    for the encoder, so it is read when another result waits for that anyway.
    """

    windows: tuple[Window, ...]
    rows: tuple[AudioRow, ...]
    spoken: dict[Key, DecodedTokens]
    unproved: list[tuple[Sequence[Window], Tensor]]

    def __len__(self) -> int:
        return len(self.windows)

    def select(self, indices: Sequence[int]) -> EncodedWindows:
        return EncodedWindows(
            tuple(self.windows[i] for i in indices),
            tuple(self.rows[i] for i in indices),
            self.spoken,
            self.unproved,
        )

    def prove(self) -> None:
        """Raises: WindowDataError: a window has non-finite samples."""
        while self.unproved:
            windows, finite = self.unproved[-1]
            for window, good in zip(windows, finite.tolist(), strict=True):
                if not good:
                    message = f"the window at {window.start:.2f} s has samples that are not numbers"
                    raise WindowDataError(
                        message, hint="decode the recording again; its samples must be finite"
                    )
            self.unproved.pop()

    def key(self, i: int, decoded: Decoded, options: DecodingOptions) -> Key:
        """Key of the queries of a text: they differ, for example, with another prompt."""
        way = options.at(decoded.temperature)
        return id(self.rows[i].cache), self.rows[i].index, decoded.tokens, decoded.language, way


_on_gpu: WeakSet[WhisperEngine] = WeakSet()  # not closed


@dataclass(frozen=True, slots=True)
class _Batch:
    """Windows to decode together, and the texts ``found`` so far, by index."""

    encoded: EncodedWindows
    languages: Sequence[str]
    options: DecodingOptions
    retry: RetryPolicy
    rules: StepRules
    found: dict[int, Decoded] = field(default_factory=dict)


class WhisperEngine(DecodesInRounds):
    """See the protocol."""

    def __init__(
        self,
        machinery: DeviceBackend,
        vocabulary: Vocabulary,
        directions: GenerationConfig,
        info: EngineInfo,
    ) -> None:
        self._machinery: DeviceBackend | None = machinery
        self._vocabulary = vocabulary
        self._directions = directions
        self._idle = _idle_steps(machinery.workers)
        self._ears: SileroGpu | None = None
        self._pool = _pool_of(machinery)
        self._rules: dict[bool, StepRules] = {}
        self._ran_out = False  # of memory, since it was last freed
        self.limits = Limits()
        self.info = info
        if machinery.model.device.type == "cuda":
            _on_gpu.add(self)

    # -- protocol
    # ----------------------------------------------------------------------------------------------

    def notices(self, options: DecodingOptions) -> tuple[Notice, ...]:
        return self._vocabulary.notices(options)

    def voice_detector(self) -> VoiceDetector | None:
        """On a GPU; on a CPU the pipeline's voice detection is faster."""
        device = self._running.model.device
        if device.type != "cuda":
            return None
        with self._at_work("loading voice detection"):
            if self._ears is None:
                self._ears = SileroGpu(device)
            return self._ears.listen()

    def encode(self, windows: Sequence[Window]) -> EncodedWindows:
        machinery = self._running
        size = machinery.encoded_at_once
        parts = [windows[first : first + size] for first in range(0, len(windows), size)]
        encoded = self._each(self._encode, parts)
        rows = [row for part, _ in encoded for row in part]
        unproved = [(part, finite) for part, (_, finite) in zip(parts, encoded, strict=True)]
        return EncodedWindows(tuple(windows), tuple(rows), {}, unproved)

    def _encode(self, windows: Sequence[Window]) -> tuple[list[AudioRow], Tensor]:
        """The encoded audio of the windows, and whether each is finite, (n,) bool."""
        machinery = self._running
        model = self._running.model
        with self._at_work("encoding"):
            mel = log_mel_windows(windows, model.geometry.num_mel_bins, model.device)
            finite = torch.isfinite(mel).all(dim=2).all(dim=1)
            cache = machinery.encode(mel)
        return [AudioRow(cache, i) for i in range(len(windows))], finite

    def join(self, batches: Sequence[EncodedWindows]) -> EncodedWindows:
        return EncodedWindows(
            tuple(window for batch in batches for window in batch.windows),
            tuple(row for batch in batches for row in batch.rows),
            {},
            [one for batch in batches for one in batch.unproved],
        )

    def detect_language(self, encoded: EncodedWindows) -> list[dict[str, float]]:
        languages = self.info.languages
        if len(languages) == 1 or not encoded.rows:
            return [{languages[0]: 1.0} for _ in encoded.windows]
        with self._at_work("detecting the language"):
            encoded.prove()
            ids = torch.tensor([self._vocabulary.id(f"<|{code}|>") for code in languages])
            requests = [Request(row, (self._vocabulary.start,), 0) for row in encoded.rows]
            scores = self._first_logits(requests)[:, ids.to(self._running.model.device)].softmax(
                dim=-1
            )
            ranked = [
                sorted(zip(languages, row, strict=True), key=lambda pair: -pair[1])
                for row in scores.tolist()
            ]
        return [dict(row) for row in ranked]

    def decode(
        self,
        encoded: EncodedWindows,
        languages: Sequence[str],
        options: DecodingOptions,
        retry: RetryPolicy = accept,
    ) -> list[Decoded]:
        """Retries join the running batch; those with beam search wait for the others."""
        if options.beam_size > 1:
            return DecodesInRounds.decode(self, encoded, languages, options, retry)
        with self._at_work("decoding"):
            rules = self._step_rules(timestamps=options.timestamps)
        batch = _Batch(encoded, languages, options, retry, rules)
        self._each(partial(self._decode_part, batch), self._shares(range(len(encoded))))
        with self._at_work("decoding"):
            encoded.prove()
        return [batch.found[i] for i in range(len(encoded))]

    def _decode_part(self, batch: _Batch, places: Sequence[int]) -> None:
        encoded = batch.encoded
        tried = dict.fromkeys(places, batch.options)

        def request(i: int) -> Request:
            return self._request(encoded, i, batch.languages[i], tried[i])

        def again(number: int, spoken: DecodedTokens) -> Request | None:
            i = places[number]
            found = batch.found[i] = self._decoded(spoken, batch.languages[i], tried[i])
            encoded.spoken[encoded.key(i, found, tried[i])] = spoken
            temperature = batch.retry(i, found)
            if temperature is None:
                return None
            tried[i] = batch.options.at(temperature)
            return request(i)

        requests = [request(i) for i in places]
        longest = max(len(one.prompt) for one in requests)
        with self._at_work("decoding"), self._steps_for(len(requests), longest) as steps:
            run(steps, batch.rules, requests, again)

    def decode_once(
        self, encoded: EncodedWindows, languages: Sequence[str], options: DecodingOptions
    ) -> list[Decoded]:
        requests = [
            self._request(encoded, i, language, options) for i, language in enumerate(languages)
        ]
        with self._at_work("decoding"):
            encoded.prove()
            rules = self._step_rules(timestamps=options.timestamps)
        parts = self._shares(requests)
        spoken = [
            one for part in self._each(partial(self._decode, rules, options), parts) for one in part
        ]
        decoded = [
            self._decoded(one, language, options)
            for one, language in zip(spoken, languages, strict=True)
        ]
        for i, (one, text) in enumerate(zip(spoken, decoded, strict=True)):
            encoded.spoken[encoded.key(i, text, options)] = one
        return decoded

    def _decode(
        self, rules: StepRules, options: DecodingOptions, requests: Sequence[Request]
    ) -> list[DecodedTokens]:
        with self._at_work("decoding"):
            if options.beam_size > 1 and options.temperature == 0:
                heads = self._directions.alignment_heads
                return search(self._running.model, requests, rules, options.beam_size, heads)
            longest = max(len(request.prompt) for request in requests)
            with self._steps_for(len(requests), longest) as steps:
                return run(steps, rules, requests)

    def align(
        self, encoded: EncodedWindows, decoded: Sequence[Decoded], options: DecodingOptions
    ) -> list[list[Word]]:
        words: list[list[Word]] = [[] for _ in decoded]
        timed = [i for i, text in enumerate(decoded) if text.tokens]
        with self._at_work("timing words"):
            # waits for the encoder, because words may be aligned on another stream
            encoded.prove()
        for part in self._each(
            partial(self._align, encoded, decoded, options), self._shares(timed)
        ):
            for i, found in part:
                words[i] = found
        return words

    def _align(
        self,
        encoded: EncodedWindows,
        decoded: Sequence[Decoded],
        options: DecodingOptions,
        timed: Sequence[int],
    ) -> list[tuple[int, list[Word]]]:
        with self._at_work("timing words"), self._aside():
            spoken = {i: self._spoken(encoded, i, decoded[i], options) for i in timed}
            rows = [encoded.rows[i] for i in timed]
            positions = [self._n_positions(encoded.windows[i]) for i in timed]
            known = [_n_known(encoded.windows[i]) for i in timed]
            queries = [spoken[i].queries for i in timed]
            heads = self._directions.alignment_heads
            starts = token_starts(heads, rows, queries, positions, self._running.search, known)
        return [
            (i, self._words(encoded.windows[i], decoded[i], spoken[i], begins, width))
            for i, begins, width in zip(timed, starts, positions, strict=True)
        ]

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        self._idle = _idle_steps(1)
        self._machinery = None
        self._ears = None
        self._rules.clear()
        _on_gpu.discard(self)
        if torch.cuda.is_initialized():
            gc.collect()  # captured steps are in reference cycles
            with suppress(RuntimeError):  # a failed GPU has no memory to free
                for device in range(torch.cuda.device_count()):
                    torch.cuda.synchronize(device)
                # Captures of other engines use cuBLAS's workspaces, which belong to the process.
                if not _on_gpu:
                    torch._C._cuda_clearCublasWorkspaces()
                torch.cuda.empty_cache()
        give_back_freed()

    # -- parts
    # ----------------------------------------------------------------------------------------------

    @property
    def _running(self) -> DeviceBackend:
        if self._machinery is None:
            raise EngineFailedError("the engine was closed", hint="load it again")
        return self._machinery

    def _request(
        self, encoded: EncodedWindows, i: int, language: str, options: DecodingOptions
    ) -> Request:
        known = self._vocabulary.known(encoded.windows[i])
        prompt = self._vocabulary.prompt(language, options, known)
        # A window samples the same tokens in every batch, and others at another temperature.
        place = f"{encoded.windows[i].start:.3f} {options.temperature:.3f}"
        start = prompt.index(self._vocabulary.start)
        return Request(
            encoded.rows[i], tuple(prompt), start, options.temperature, zlib.crc32(place.encode())
        )

    def _step_rules(self, *, timestamps: bool) -> StepRules:
        known = self._rules.get(timestamps)
        if known is None or known.limits != self.limits:
            vocabulary = self._vocabulary
            rules = make_rules(
                vocabulary, self._directions, self._running.model.embedding, timestamps=timestamps
            )
            ids = (vocabulary.end_of_text, vocabulary.no_speech, vocabulary.timestamp_begin)
            known = self._rules[timestamps] = StepRules(rules, self.limits, *ids)
        return known

    @contextmanager
    def _steps_for(self, n_windows: int, prompt_tokens: int) -> Iterator[Steps]:
        """Idle steps, or new ones if larger slots are needed.

        There is one per worker, and threads wait for an idle one. So memory is as predicted,
        regardless of the number of decoding threads.
        """
        idle = self._idle
        steps = idle.get()
        kept = None
        try:
            machinery = self._running
            capacity, context = self._room_for(n_windows, prompt_tokens)
            if steps is not None and (
                steps.slots.capacity < capacity or steps.slots.n_positions < context
            ):
                capacity = max(capacity, steps.slots.capacity)
                context = max(context, steps.slots.n_positions)
                steps = None  # its memory is freed first
            if steps is None:
                heads = self._directions.alignment_heads
                steps = machinery.make_steps(Slots(machinery.model, heads, capacity, context))
            yield steps
            kept = steps  # not after a failure, because their slots are in use
        finally:
            idle.put(kept)

    def _room_for(self, n_windows: int, prompt_tokens: int) -> tuple[int, int]:
        """Rows and positions."""
        machinery = self._running
        capacity = next((room for room in machinery.room if room >= n_windows), machinery.room[-1])
        fits = prompt_tokens + MAX_TOKENS < SHORT_CONTEXT_TOKENS
        context = SHORT_CONTEXT_TOKENS if fits else CONTEXT_TOKENS
        return min(capacity, machinery.most_rows), min(
            context, machinery.model.geometry.max_target_positions
        )

    def _shares(self, items: Sequence[Item]) -> list[Sequence[Item]]:
        """Equal, non-empty parts, one per worker."""
        size = -(-len(items) // self._running.workers) or 1
        return [items[first : first + size] for first in range(0, len(items), size)]

    def _each(self, work: Callable[[Item], Result], parts: Sequence[Item]) -> list[Result]:
        """Process all parts, on the workers if there are several."""
        return (
            [work(part) for part in parts]
            if self._pool is None
            else list(self._pool.map(work, parts))
        )

    def _first_logits(self, requests: Sequence[Request]) -> Tensor:
        """Logits of the token after the first one: (n, V)."""
        machinery = self._running
        slots = Slots(machinery.model, (), max(1, len(requests)), 8)
        slots.add(requests, self._step_rules(timestamps=False))
        return machinery.make_steps(slots).logits(len(requests))

    def _decoded(self, spoken: DecodedTokens, language: str, options: DecodingOptions) -> Decoded:
        text = self._text(spoken.tokens)
        return Decoded(
            text=self._vocabulary.decode(text),
            language=language,
            temperature=options.temperature,
            tokens=text,
            avg_logprob=spoken.average,
            no_speech_prob=spoken.no_speech,
        )

    def _text(self, tokens: Sequence[int]) -> tuple[int, ...]:
        return tuple(token for token in tokens if self._vocabulary.is_text(token))

    def _spoken(
        self, encoded: EncodedWindows, i: int, decoded: Decoded, options: DecodingOptions
    ) -> DecodedTokens:
        """The queries saved while decoding this text. If they are missing or differ, the text is
        decoded again by teacher forcing.
        """
        known = encoded.spoken.get(encoded.key(i, decoded, options))
        if known is not None:
            return known
        start = self._vocabulary.start_sequence(
            decoded.language, options.task, timestamps=options.timestamps
        )
        given = [*start, *self._vocabulary.known(encoded.windows[i])]
        said = [*decoded.tokens, self._vocabulary.end_of_text]
        heads = self._directions.alignment_heads
        queries, logits = teacher_forced_queries(
            self._running.model, heads, encoded.rows[i], given, said
        )
        logits[1:] += self._step_rules(timestamps=options.timestamps).rules.biases[0]
        logits[:1] += self._step_rules(timestamps=options.timestamps).rules.biases[1]
        ids = torch.tensor(said, device=logits.device)
        probabilities = logits.log_softmax(dim=-1).gather(1, ids[:, None])[:, 0]
        return DecodedTokens(
            decoded.tokens, tuple(probabilities.tolist()), decoded.no_speech_prob or 0.0, queries
        )

    def _n_positions(self, window: Window) -> int:
        most = self._running.model.geometry.max_source_positions
        return max(1, min(most, round(window.duration / ENCODER_FRAME_S)))

    def _words(
        self,
        window: Window,
        decoded: Decoded,
        spoken: DecodedTokens,
        begins: Sequence[int],
        width: int,
    ) -> list[Word]:
        """Words of a window from the positions of its tokens."""
        n = len(spoken.tokens)
        ends = begins[n] if len(begins) > n else width  # a text at the token limit has no end token
        at_s = np.maximum([*begins[:n], ends], _n_known(window)) * ENCODER_FRAME_S
        text = [k for k, token in enumerate(spoken.tokens) if self._vocabulary.is_text(token)]
        spans = split_words(
            [spoken.tokens[k] for k in text], self._vocabulary.decode, decoded.language
        )
        probabilities = np.exp([spoken.log_probabilities[k] for k in text])
        return time_words(spans, at_s[[*text, n]], probabilities.tolist(), window.start)

    @contextmanager
    def _at_work(self, doing: str) -> Iterator[None]:
        """Launch on the engine's device in any thread; raise torch's errors as ours."""
        try:
            with _foreign_errors(doing), torch.inference_mode(), on(self._running.model.device):
                if self._ran_out:  # after the failed tensors are released
                    self._give_back()
                yield
        except OutOfMemoryError:
            self._ran_out = True
            raise

    def _give_back(self) -> None:
        """Free memory that is cached for speed and not in use."""
        self._ran_out = False
        n_idle = 0
        with suppress(Empty):
            while True:
                self._idle.get_nowait()
                n_idle += 1
        for _ in range(n_idle):
            self._idle.put(None)
        self._running.give_back()
        gc.collect()  # an error may be in a reference cycle with tensors
        if self._running.model.device.type == "cuda":
            torch.cuda.empty_cache()  # libraries allocate beside PyTorch

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """On a separate stream, so that words are aligned while the next batch is decoded."""
        if self._running.model.device.type != "cuda":
            yield
            return
        with torch.cuda.stream(side_stream(self._running.model.device)):
            yield


def _foreign_errors(doing: str) -> AbstractContextManager[None]:
    return library_errors(
        launch_errors,
        f"torch failed while {doing}",
        "use a smaller batch or a smaller model",
        f"torch ran out of memory while {doing}",
    )


def _n_known(window: Window) -> int:
    """Positions of a window's known beginning."""
    known_s = window.known.end - window.start if window.known else 0.0
    return round(known_s / ENCODER_FRAME_S)


def _idle_steps(workers: int) -> LifoQueue[Steps | None]:
    """A stack of idle steps, one per worker."""
    idle: LifoQueue[Steps | None] = LifoQueue()
    for _ in range(workers):
        idle.put(None)  # created on demand
    return idle


def _pool_of(machinery: DeviceBackend) -> ThreadPoolExecutor | None:
    if not machinery.threads_each:
        return None

    def begin() -> None:
        torch.set_num_threads(machinery.threads_each)  # applies to the calling thread

    return ThreadPoolExecutor(machinery.workers, "whisper", initializer=begin)
