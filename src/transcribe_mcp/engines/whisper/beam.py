"""Beam search, as in openai-whisper's ``BeamSearchDecoder``.

Returns the finished hypothesis of each window with the highest average log-probability. One batch
holds as many windows as fit into ``TEXT_BYTES``; a finished window makes room for the next. Steps
are not captured in CUDA graphs.

Shapes: W windows, K beams, N the maximum number of tokens of a text, V the size of the vocabulary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from .beam_cache import POSITIONS_AT_ONCE, BeamCache
from .caches import Heads
from .continuous_batching import DecodedTokens
from .decode_slots import Request, StepRules
from .logit_filters import TokenHistory
from .model import Whisper, logits_of
from .sampling import likeliest_few, log_sums

WINDOWS_AT_ONCE = 8  # 40 rows with five beams; a CPU gains nothing from more
TEXT_BYTES = 1 << 28  # keys and values of all hypotheses, for their first 128 positions
NEVER = float("-inf")


@dataclass(slots=True)
class _Window:
    """State of one window apart from its beams.

    Attributes:
        number: index of its request.
        best: the best finished hypothesis; ``average``: its mean log-probability.
        n_ended: number of finished hypotheses.
        is_stuck: every continuation is suppressed.
    """

    number: int
    request: Request
    no_speech: float
    best: DecodedTokens | None = None
    n_ended: int = 0
    is_stuck: bool = False

    def offer(self, spoken: DecodedTokens) -> None:
        """Keep the better hypothesis; on a tie the first."""
        self.n_ended += 1
        if self.best is None or spoken.average > self.best.average:
            self.best = spoken


@dataclass(frozen=True, slots=True)
class _Beams:
    """The unfinished hypotheses.

    Attributes:
        tokens: (W, K, N); ``log_probabilities`` of each; ``count``: (W,) how many there are so far.
        total: (W, K) float64, sums of the log-probabilities; minus infinity for a beam that has no
            text.
        latest_timestamp: (W, K), see ``logit_filters.TokenHistory``.
        given: (W,) tokens of the prompt.
    """

    tokens: Tensor
    log_probabilities: Tensor
    count: Tensor
    total: Tensor
    latest_timestamp: Tensor
    given: Tensor

    @classmethod
    def empty(cls, n_windows: int, n_beams: int, n_tokens: int, device: torch.device) -> _Beams:
        def zeros(*shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
            return torch.zeros((n_windows, *shape), dtype=dtype, device=device)

        return cls(
            zeros(n_beams, n_tokens),
            zeros(n_beams, n_tokens, dtype=torch.float32),
            zeros(),
            zeros(n_beams, dtype=torch.float64),
            zeros(n_beams),
            zeros(),
        )

    def part(self, windows: slice) -> _Beams:
        """Views."""
        return _Beams(*(getattr(self, field.name)[windows] for field in fields(self)))

    def move(self, source: int, target: int) -> None:
        for field in fields(self):
            values = getattr(self, field.name)
            values[target] = values[source]

    def said(self) -> TokenHistory:
        """(W K,) each."""
        count = self.count[:, None].expand(self.total.shape)

        def before(n: int) -> Tensor:
            return self.tokens.gather(2, (count - n).clamp(min=0)[..., None])[..., 0].flatten()

        return TokenHistory(count.flatten(), before(1), before(2), self.latest_timestamp.flatten())


def search(
    model: Whisper, requests: Sequence[Request], step: StepRules, size: int, heads: Heads
) -> list[DecodedTokens]:
    """Decode each window with ``size`` hypotheses."""
    running = _Search(model, step, size, heads)
    waiting = deque(enumerate(requests))
    results: dict[int, DecodedTokens] = {}
    while waiting or len(running):
        while waiting and len(running) < running.room:
            running.add(*waiting.popleft())
            results.update(running.finished())
        if len(running):
            running.step()
        results.update(running.finished())
    return [results[number] for number in range(len(requests))]


class _Search:
    """The windows in the batch, at most ``room``."""

    def __init__(self, model: Whisper, step: StepRules, size: int, heads: Heads) -> None:
        self._model = model
        self._step = step
        self._size = size
        self._context = model.geometry.max_target_positions
        entry = (
            len(model.decoder_layers)
            * 2
            * size
            * model.geometry.d_model
            * model.embedding.element_size()
        )
        self.room = max(1, min(WINDOWS_AT_ONCE, TEXT_BYTES // (entry * 2 * POSITIONS_AT_ONCE)))
        self._cache = BeamCache(model, heads, self.room, size)
        self._beams = _Beams.empty(self.room, size, step.limits.most + 1, model.device)
        self._windows: list[_Window] = []

    def __len__(self) -> int:
        return len(self._windows)

    def add(self, number: int, request: Request) -> None:
        """Add a window. Its beams start with the most probable first tokens."""
        at = len(self._windows)
        prompt = request.prompt
        states = self._cache.add(request.audio, prompt)
        logits = logits_of(self._model, states[[request.start, len(prompt) - 1]])
        silence = float(torch.softmax(logits[0], dim=-1)[self._step.no_speech])
        self._windows.append(_Window(number, request, silence))
        beams = self._beams
        beams.count[at] = 0
        beams.given[at] = len(prompt)
        beams.latest_timestamp[at] = self._step.timestamp_begin - 1
        beams.total[at] = NEVER
        beams.total[at, 0] = 0.0
        self._extend(at, logits[1:].expand(self._size, -1).clone())

    def step(self) -> None:
        beams = self._beams.part(slice(len(self)))
        positions = beams.given + beams.count - 1
        last = beams.tokens.gather(2, (beams.count - 1)[:, None, None].expand(-1, self._size, 1))[
            ..., 0
        ]
        states = self._cache.step(last, positions, int(positions.max()))
        self._extend(0, logits_of(self._model, states.flatten(0, 1)))

    def finished(self) -> list[tuple[int, DecodedTokens]]:
        """Remove finished windows; return their request numbers and results."""
        found = []
        counts = self._beams.count.tolist()
        for at in reversed(range(len(self))):
            window = self._windows[at]
            most = min(self._step.limits.most, self._context - len(window.request.prompt) + 1)
            if window.n_ended < self._size and counts[at] < most and not window.is_stuck:
                continue
            found.append((window.number, window.best or self._unended(at)))
            last = len(self) - 1
            self._cache.remove(at)
            self._beams.move(last, at)
            self._windows[at] = self._windows[last]
            self._windows.pop()
        return found

    def _extend(self, first: int, logits: Tensor) -> None:
        """Extend the hypotheses of the windows from ``first`` on.

        Args:
            logits: (W K, V), written over.
        """
        beams = self._beams.part(slice(first, len(self)))
        n_windows, size = beams.total.shape
        # One more per hypothesis, since one of them may be the end token.
        values, tokens = self._continuations(logits, beams, size + 1)
        totals = (values.double() + beams.total.view(-1, 1)).view(n_windows, -1)
        totals, order = totals.sort(dim=1, descending=True, stable=True)
        tokens = tokens.view(n_windows, -1).gather(1, order)
        values = values.view(n_windows, -1).gather(1, order)
        origins = order // (size + 1)
        possible = totals > NEVER
        goes_on = possible & (tokens != self._step.end_of_text)
        likelier = goes_on.long().cumsum(1) - goes_on.long()  # number of better ones that continue
        ends = possible & ~goes_on & (likelier < size)
        goes_on &= likelier < size
        for at, place in ends.nonzero().tolist():
            self._end(first + at, int(origins[at, place]), float(values[at, place]))
        chosen = (~goes_on).int().sort(dim=1, stable=True).indices[:, :size]
        chosen = chosen.gather(1, _in_place(origins.gather(1, chosen), goes_on.gather(1, chosen)))
        lives = goes_on.gather(1, chosen)
        for at in (~lives.any(dim=1)).nonzero()[:, 0].tolist():
            self._windows[first + at].is_stuck = True
        stay = torch.arange(size, device=logits.device)
        origins = torch.where(lives, origins.gather(1, chosen), stay)
        self._take_over(first, beams, origins)
        latest = beams.latest_timestamp.gather(1, origins)
        chosen_tokens = tokens.gather(1, chosen)
        is_timestamp = lives & (chosen_tokens >= self._step.timestamp_begin)
        beams.latest_timestamp.copy_(torch.where(is_timestamp, chosen_tokens, latest))
        place = beams.count[:, None, None].expand(-1, size, 1)
        beams.tokens.scatter_(2, place, chosen_tokens[..., None])
        beams.log_probabilities.scatter_(2, place, values.gather(1, chosen)[..., None])
        moves = lives.any(dim=1)
        new_totals = totals.gather(1, chosen).masked_fill(~lives, NEVER)
        beams.total.copy_(torch.where(moves[:, None], new_totals, beams.total))
        beams.count.add_(moves.long())

    def _continuations(self, logits: Tensor, beams: _Beams, n: int) -> tuple[Tensor, Tensor]:
        """Log-probabilities and IDs (W K, n) of the most probable next tokens."""
        allowed = self._step.rules(logits, beams.said())
        sums = log_sums(allowed)
        if self._step.limits.least:
            too_short = (
                (beams.count < self._step.limits.least)[:, None].expand(beams.total.shape).flatten()
            )
            allowed[:, self._step.end_of_text].masked_fill_(too_short, NEVER)
        values, tokens = likeliest_few(allowed, n)
        return values - sums[:, None], tokens

    def _take_over(self, first: int, beams: _Beams, origins: Tensor) -> None:
        """Copy to each beam (W, K) the hypothesis of its origin beam."""
        everywhere = origins[..., None].expand(beams.tokens.shape)
        taken = beams.tokens.gather(1, everywhere)
        is_said = torch.arange(taken.shape[2], device=taken.device) < beams.count[:, None, None]
        unequal = (taken != beams.tokens) & is_said
        windows, targets, places = (unequal.long().cummax(dim=2).values.bool() & is_said).nonzero(
            as_tuple=True
        )
        if not len(windows):
            return
        sources = origins[windows, targets]
        positions = places + beams.given[windows]
        self._cache.copy(windows + first, sources, targets, positions)
        beams.log_probabilities.copy_(beams.log_probabilities.gather(1, everywhere))
        beams.tokens.copy_(taken)

    def _end(self, at: int, beam: int, log_probability: float) -> None:
        window = self._windows[at]
        if window.n_ended < self._size:
            window.offer(self._spoken(at, beam, [log_probability]))

    def _unended(self, at: int) -> DecodedTokens:
        """The best hypothesis that reached the token limit."""
        alive = (self._beams.total[at] > NEVER).nonzero()[:, 0].tolist()
        return max((self._spoken(at, beam) for beam in alive), key=lambda text: text.average)

    def _spoken(self, at: int, beam: int, end: Sequence[float] = ()) -> DecodedTokens:
        """A hypothesis as a result; ``end`` is the log-probability of its end token, if any."""
        beams = self._beams
        count = int(self._beams.count[at])
        before = (
            len(self._windows[at].request.prompt) - 1
        )  # the position whose query chose the first token
        return DecodedTokens(
            tokens=tuple(beams.tokens[at, beam, :count].tolist()),
            log_probabilities=(*beams.log_probabilities[at, beam, :count].tolist(), *end),
            no_speech=self._windows[at].no_speech,
            queries=self._cache.asked(at, beam, slice(before, before + max(1, count + len(end)))),
        )


def _in_place(origins: Tensor, lives: Tensor) -> Tensor:
    """Order the continuations (W, K) so that the first of each hypothesis stays in its beam."""
    same = (origins[:, :, None] == origins[:, None]) & lives[:, None]
    stays = lives & ~same.tril(-1).any(dim=2)
    taken = torch.zeros_like(origins).scatter_add_(1, origins, stays.long())
    free = taken.sort(dim=1, stable=True).indices
    others = (~stays).long().cumsum(1) - 1
    place = torch.where(stays, origins, free.gather(1, others.clamp(min=0)))
    return place.argsort(dim=1)
