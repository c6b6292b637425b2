"""The rows of a running batch: their state on the device, one decoding step, adding and removing
rows.

Only reading finished rows waits for the device. Tensors keep their shapes and addresses, so that a
step can be captured once and replayed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from .attention import TorchAttention
from .caches import AlignedBase, AudioRow, Heads, KeptQueries, kept_queries, text_cache
from .logit_filters import Rules, TokenHistory
from .model import Whisper, decode, logits_of
from .sampling import choose, likeliest, log_sums

MAX_TOKENS = 224  # per window, as in openai-whisper: half the context
# Longer prompts are prefilled in one pass. On a GPU a few single steps are cheaper.
PREFILLED_TOKENS_CPU = 1
PREFILLED_TOKENS_CUDA = 8


@dataclass(frozen=True, slots=True)
class Limits:
    """Token limits of a window, without the end of text. A ``least`` above 0 is for benchmarks."""

    least: int = 0
    most: int = MAX_TOKENS


@dataclass(frozen=True, slots=True)
class Request:
    """One window to decode.

    Attributes:
        prompt: tokens before the text.
        start: index of the start-of-transcript token in the prompt; no_speech is read there.
        temperature, seed: see ``sampling``.
    """

    audio: AudioRow
    prompt: tuple[int, ...]
    start: int
    temperature: float = 0.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class RowState:
    """State of the rows, without caches. All (rows,) unless a shape is given.

    Attributes:
        token, position: the next input token and its position.
        prompt: (rows, positions); ``prompt_length``: its length.
        start: see ``Request``.
        done: the row is finished or empty.
        last, before_last, latest_timestamp: see ``logit_filters.TokenHistory``.
        said: (rows, max tokens), its tokens; ``log_probability`` of each; ``count`` includes the
            end of text.
        no_speech: probability.
        audio_place, scale_place: offsets of the window's keys and values and of their scales, in
            units of 16 bytes from ``Slots.anchors``. So a captured step reads windows where they
            are.
    """

    token: Tensor
    position: Tensor
    prompt: Tensor
    prompt_length: Tensor
    start: Tensor
    done: Tensor
    temperature: Tensor
    seed: Tensor
    last: Tensor
    before_last: Tensor
    latest_timestamp: Tensor
    said: Tensor
    log_probability: Tensor
    count: Tensor
    no_speech: Tensor
    audio_place: Tensor
    scale_place: Tensor

    @classmethod
    def empty(cls, n_rows: int, n_positions: int, device: torch.device) -> RowState:
        def zeros(*shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
            return torch.zeros((n_rows, *shape), dtype=dtype, device=device)

        return cls(
            token=zeros(),
            position=zeros(),
            prompt=zeros(n_positions),
            prompt_length=zeros(),
            start=zeros(),
            done=torch.ones(n_rows, dtype=torch.bool, device=device),
            temperature=zeros(dtype=torch.float32),
            seed=zeros(),
            last=zeros(),
            before_last=zeros(),
            latest_timestamp=zeros(),
            said=zeros(MAX_TOKENS),
            log_probability=zeros(MAX_TOKENS, dtype=torch.float32),
            count=zeros(),
            no_speech=zeros(dtype=torch.float32),
            audio_place=zeros(),
            scale_place=zeros(),
        )

    def first(self, n_rows: int) -> RowState:
        return RowState(*(getattr(self, field.name)[:n_rows] for field in fields(self)))

    def assign(self, row: int, other: RowState, other_row: int) -> None:
        for field in fields(self):
            getattr(self, field.name)[row].copy_(getattr(other, field.name)[other_row])


@dataclass(frozen=True, slots=True)
class Finished:
    """Results of finished rows, still on the device; ``queries`` is (rows, heads, positions, D)."""

    said: Tensor
    log_probability: Tensor
    count: Tensor
    no_speech: Tensor
    prompt_length: Tensor
    queries: Tensor


@dataclass(frozen=True, slots=True)
class StepRules:
    """Inputs of a step apart from the rows: filters, limits and special token IDs."""

    rules: Rules
    limits: Limits
    end_of_text: int
    no_speech: int
    timestamp_begin: int


class Slots:
    """Rows ``0 .. capacity`` of a batch; the first ``len(audio)`` are in use."""

    def __init__(self, model: Whisper, heads: Heads, capacity: int, n_positions: int) -> None:
        self.model = model
        self._prefilled_from = (
            PREFILLED_TOKENS_CUDA if model.device.type == "cuda" else PREFILLED_TOKENS_CPU
        )
        self.capacity = capacity
        self.n_positions = n_positions
        self.state = RowState.empty(capacity, n_positions, model.device)
        self.text = text_cache(model, capacity, n_positions)
        self.anchors = AlignedBase.on(model.device)
        self.queries: KeptQueries = kept_queries(model, heads, capacity, n_positions)
        self.audio: list[AudioRow] = []
        self.temperatures: list[float] = []

    def add(self, requests: Sequence[Request], step: StepRules) -> None:
        """Add windows to the next free rows."""
        first = len(self.audio)
        n = len(requests)
        fresh = RowState.empty(n, self.n_positions, torch.device("cpu"))
        longest = max(len(request.prompt) for request in requests)
        padded = [request.prompt + (0,) * (longest - len(request.prompt)) for request in requests]
        fresh.prompt[:, :longest] = torch.tensor(padded)
        fresh.token.copy_(fresh.prompt[:, 0])
        numbers = [
            (len(request.prompt), request.start, request.seed, *self.anchors.places(request.audio))
            for request in requests
        ]
        targets = (
            fresh.prompt_length,
            fresh.start,
            fresh.seed,
            fresh.audio_place,
            fresh.scale_place,
        )
        for target, column in zip(targets, torch.tensor(numbers).unbind(1), strict=True):
            target.copy_(column)
        fresh.temperature.copy_(torch.tensor([request.temperature for request in requests]))
        fresh.done.fill_(False)
        fresh.latest_timestamp.fill_(step.timestamp_begin - 1)
        for field in fields(RowState):
            getattr(self.state, field.name)[first : first + n].copy_(
                getattr(fresh, field.name), non_blocking=True
            )
        self.audio += [request.audio for request in requests]
        self.temperatures += [request.temperature for request in requests]
        if longest > self._prefilled_from:
            self._prefill(first, requests, step)

    def _prefill(self, first: int, requests: Sequence[Request], step: StepRules) -> None:
        """Prefill the prompts of new rows up to their last token. Padding is overwritten later."""
        rows = slice(first, first + len(requests))
        lengths = self.state.prompt_length[rows]
        longest = max(len(request.prompt) for request in requests) - 1
        positions = torch.arange(longest, device=self.model.device).expand(len(requests), longest)
        text = self.text[:, :, rows]
        attention = TorchAttention(positions, text, self.audio[rows], longest)
        states = decode(self.model, self.state.prompt[rows, :longest], positions, attention)
        starts = self.state.start[rows].clamp(max=longest - 1)
        at_start = states.gather(1, starts[:, None, None].expand(-1, 1, states.shape[2]))[:, 0]
        logits = logits_of(self.model, at_start)
        self.state.no_speech[rows] = torch.softmax(logits, dim=-1)[:, step.no_speech]
        self.state.position[rows] = lengths - 1
        self.state.token[rows] = self.state.prompt[rows].gather(1, lengths[:, None] - 1)[:, 0]

    def read(self, rows: Sequence[int]) -> Finished:
        """Results of these rows, as copies, so that the rows can be reused."""
        state = self.state
        at = torch.tensor(rows, device=self.model.device)
        return Finished(
            state.said[at],
            state.log_probability[at],
            state.count[at],
            state.no_speech[at],
            state.prompt_length[at],
            self.queries.values[at],
        )

    def remove(self, row: int) -> None:
        """Free a row that is done; the last one in use takes its place."""
        last = len(self.audio) - 1
        if row != last:
            self.state.assign(row, self.state, last)
            self.text[:, :, row].copy_(self.text[:, :, last])
            self.queries.values[row].copy_(self.queries.values[last])
            self.audio[row] = self.audio[last]
            self.temperatures[row] = self.temperatures[last]
            self.state.done[last] = True
        self.audio.pop()
        self.temperatures.pop()


def torch_logits(slots: Slots, n_rows: int) -> Tensor:
    """Next-token logits of the first ``n_rows`` rows: (n_rows, V) float32. Synchronises with the
    device.
    """
    state = slots.state.first(n_rows)
    longest = int(state.position.max()) + 1
    attention = TorchAttention(
        state.position[:, None], slots.text, slots.audio[:n_rows], longest, slots.queries
    )
    states = decode(slots.model, state.token[:, None], state.position[:, None], attention)
    return logits_of(slots.model, states[:, 0])


def advance(
    state: RowState, logits: Tensor, step: StepRules, *, samples: bool = True, starts: bool = True
) -> None:
    """Choose each row's next token from its logits (R, V) float32 and update the state.

    Args:
        samples: some rows may have a temperature above 0.
        starts: some rows may be at their start token, where no_speech is read.
    """
    if starts:
        silence = logits[:, step.no_speech] - log_sums(logits)
        judged = (state.position == state.start) & ~state.done
        state.no_speech.copy_(torch.where(judged, silence.exp(), state.no_speech))
    speaks = (state.position + 1 >= state.prompt_length) & ~state.done
    allowed = step.rules(
        logits, TokenHistory(state.count, state.last, state.before_last, state.latest_timestamp)
    )
    if step.limits.least:
        allowed[:, step.end_of_text].masked_fill_(state.count < step.limits.least, float("-inf"))
    token = (
        choose(allowed, state.temperature, state.seed, state.count)
        if samples
        else likeliest(allowed)
    )
    log_probability = allowed.gather(1, token[:, None])[:, 0] - log_sums(allowed)

    place = state.count.clamp(max=MAX_TOKENS - 1)[:, None]
    said_before = state.said.gather(1, place)[:, 0]
    probability_before = state.log_probability.gather(1, place)[:, 0]
    state.said.scatter_(1, place, torch.where(speaks, token, said_before)[:, None])
    state.log_probability.scatter_(
        1, place, torch.where(speaks, log_probability, probability_before)[:, None]
    )
    state.before_last.copy_(torch.where(speaks, state.last, state.before_last))
    state.last.copy_(torch.where(speaks, token, state.last))
    is_timestamp = speaks & (token >= step.timestamp_begin)
    state.latest_timestamp.copy_(torch.where(is_timestamp, token, state.latest_timestamp))
    state.count.add_(speaks.long())

    following = (state.position + 1).clamp(max=state.prompt.shape[1] - 1)
    prompted = state.prompt.gather(1, following[:, None])[:, 0]
    going_on = ~state.done
    ends = speaks & ((token == step.end_of_text) | (state.count >= step.limits.most))
    state.done.logical_or_(ends | (going_on & (state.position + 1 >= state.prompt.shape[1])))
    state.token.copy_(torch.where(going_on, torch.where(speaks, token, prompted), state.token))
    state.position.copy_(torch.where(going_on, following, state.position))
