"""The rows of a running batch: their state on the device, one step of all, rows that come and go.

Nothing here waits for the device, except where finished rows are read. All tensors keep their shapes and places, so
that a step can be captured once and replayed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from .attention import TorchAttention
from .caches import Anchors, AudioRow, Heads, KeptQueries, kept_queries, text_cache
from .logit_filters import Rules, Said
from .model import Whisper, decode, logits_of
from .sampling import choose, likeliest, log_sums

MOST_TOKENS = 224  # said in one window, as in openai-whisper: half the context
# Prompts of more tokens are taken in at once, before the steps. On a GPU a few steps cost less than that.
PREFILLED_TOKENS_CPU, PREFILLED_TOKENS_CUDA = 1, 8


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a window may say, end of text not counted. More than ``least`` is for measuring speed only."""

    least: int = 0
    most: int = MOST_TOKENS


@dataclass(frozen=True, slots=True)
class Request:
    """One window to be decoded.

    Attributes:
        prompt: tokens given, up to where the text begins.
        start: index in the prompt of the token that starts the transcript, where silence is judged.
        temperature, seed: see ``sampling``.
    """

    audio: AudioRow
    prompt: tuple[int, ...]
    start: int
    temperature: float = 0.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class RowState:
    """Everything that a row is, apart from its caches. All (rows,) but where shapes are given.

    Attributes:
        token, position: what is fed next, and where.
        prompt: (rows, positions); ``prompt_length``: of it.
        start: see ``Request``.
        done: the row is finished or empty: it computes nothing that counts.
        last, before_last, latest_timestamp: see ``rules.Said``.
        said: (rows, most tokens) what it has said; ``log_probability`` of each; ``count``: how many, the end of text
            included.
        no_speech: probability.
        audio_place, scale_place: where the window's keys and values and their scales begin in memory, in units of 16
            bytes from ``Slots.anchors``, so that windows need not be copied to where a captured step looks for them.
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
            said=zeros(MOST_TOKENS),
            log_probability=zeros(MOST_TOKENS, dtype=torch.float32),
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
    """What some rows said, still on the device; ``queries`` (rows, heads, positions, D)."""

    said: Tensor
    log_probability: Tensor
    count: Tensor
    no_speech: Tensor
    prompt_length: Tensor
    queries: Tensor


@dataclass(frozen=True, slots=True)
class StepRules:
    """What a step needs beside the rows: the rules, limits, and two ids."""

    rules: Rules
    limits: Limits
    end_of_text: int
    no_speech: int
    timestamp_begin: int


class Slots:
    """Rows ``0 .. capacity`` of a batch, of which the first ``len(audio)`` are in use."""

    def __init__(self, model: Whisper, heads: Heads, capacity: int, n_positions: int) -> None:
        self.model = model
        self._prefilled_from = (
            PREFILLED_TOKENS_CUDA if model.device.type == "cuda" else PREFILLED_TOKENS_CPU
        )
        self.capacity, self.n_positions = capacity, n_positions
        self.state = RowState.empty(capacity, n_positions, model.device)
        self.text = text_cache(model, capacity, n_positions)
        self.anchors = Anchors.on(model.device)
        self.queries: KeptQueries = kept_queries(model, heads, capacity, n_positions)
        self.audio: list[AudioRow] = []
        self.temperatures: list[float] = []

    def add(self, requests: Sequence[Request], step: StepRules) -> None:
        """Put windows into the next free rows."""
        first, n = len(self.audio), len(requests)
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
        """Take in the prompts of new rows, up to their last token. What lies behind shorter ones is written over."""
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
        """What these rows have said. Copies, so that the rows can be used again."""
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
            self.audio[row], self.temperatures[row] = self.audio[last], self.temperatures[last]
            self.state.done[last] = True
        self.audio.pop()
        self.temperatures.pop()


def torch_logits(slots: Slots, n_rows: int) -> Tensor:
    """What may follow what the first ``n_rows`` rows are fed: (n_rows, V) float32. Asks the device how far they are."""
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
    """Choose each row's next token from its logits (R, V) float32 and write down what follows from it.

    Args:
        samples: a row may have a temperature; without, nothing is drawn.
        starts: a row may be where silence is judged; without, it is not looked at.
    """
    if starts:
        silence = logits[:, step.no_speech] - log_sums(logits)
        judged = (state.position == state.start) & ~state.done
        state.no_speech.copy_(torch.where(judged, silence.exp(), state.no_speech))
    speaks = (state.position + 1 >= state.prompt_length) & ~state.done
    allowed = step.rules(
        logits, Said(state.count, state.last, state.before_last, state.latest_timestamp)
    )
    if step.limits.least:
        allowed[:, step.end_of_text].masked_fill_(state.count < step.limits.least, float("-inf"))
    token = (
        choose(allowed, state.temperature, state.seed, state.count)
        if samples
        else likeliest(allowed)
    )
    log_probability = allowed.gather(1, token[:, None])[:, 0] - log_sums(allowed)

    place = state.count.clamp(max=MOST_TOKENS - 1)[:, None]
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
