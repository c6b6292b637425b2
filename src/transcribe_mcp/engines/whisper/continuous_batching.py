"""Continuous batching: a finished window frees its row for the next one at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import torch
from torch import Tensor

from .decode_slots import Finished, Request, Slots, StepRules, advance, torch_logits

Again = Callable[[int, "DecodedTokens"], Request | None]


@dataclass(frozen=True, slots=True)
class DecodedTokens:
    """The result of one window.

    Attributes:
        tokens: without the end of text.
        log_probabilities: one per token, and that of the end of text.
        queries: (heads, tokens + 1, D) on the device: the cross-attention queries of the alignment
            heads that chose each token and the end of text.
    """

    tokens: tuple[int, ...]
    log_probabilities: tuple[float, ...]
    no_speech: float
    queries: Tensor

    @property
    def average(self) -> float:
        """Mean log-probability, end of text included."""
        return sum(self.log_probabilities) / max(1, len(self.log_probabilities))


class Steps(Protocol):
    """Runs decoding steps: one by one here, or as CUDA graphs."""

    slots: Slots

    def run(self, rules: StepRules, n_rows: int) -> None:
        """Run some steps of the first ``n_rows`` rows."""

    def logits(self, n_rows: int) -> Tensor:
        """Next-token logits of the first ``n_rows`` rows: (n_rows, V) float32."""

    def finished(self) -> list[int]:
        """Rows that were done at the last check; steps skip them."""


def on(device: torch.device) -> AbstractContextManager[object]:
    """Make it the current device: Triton launches there, regardless of its tensors."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


@cache
def side_stream(device: torch.device) -> torch.cuda.Stream:
    """The only side stream of a device: cuBLAS allocates tens of megabytes for every stream it
    uses.
    """
    return torch.cuda.Stream(device)


class EagerSteps:
    """Runs steps one by one. The reference for ``graphs.CapturedSteps``."""

    def __init__(self, slots: Slots) -> None:
        self.slots = slots

    def run(self, rules: StepRules, n_rows: int) -> None:
        state = self.slots.state.first(n_rows)
        starts = bool((state.position == state.start).any())
        samples = any(temperature > 0 for temperature in self.slots.temperatures)
        advance(state, self.logits(n_rows), rules, samples=samples, starts=starts)

    def logits(self, n_rows: int) -> Tensor:
        return torch_logits(self.slots, n_rows)

    def finished(self) -> list[int]:
        done: list[int] = torch.nonzero(self.slots.state.done[: len(self.slots.audio)])[
            :, 0
        ].tolist()
        return done


def run(
    steps: Steps, rules: StepRules, requests: Sequence[Request], again: Again | None = None
) -> list[DecodedTokens]:
    """Decode windows, as many at once as there are rows.

    Args:
        again: called as each window finishes. A returned request takes the freed row, and its
            result replaces the first one.
    """
    slots = steps.slots
    waiting = deque(enumerate(requests))
    numbers: list[int] = []  # request numbers of the rows
    results: dict[int, DecodedTokens] = {}
    while waiting or numbers:
        room = min(slots.capacity - len(numbers), len(waiting))
        if room:
            new = [waiting.popleft() for _ in range(room)]
            slots.add([request for _, request in new], rules)
            numbers += [number for number, _ in new]
        steps.run(rules, len(numbers))
        rows = steps.finished()
        if not rows:
            continue
        spoken = _spoken(slots.read(rows), rules.end_of_text)
        for row, one in zip(rows, spoken, strict=True):
            results[numbers[row]] = one
            following = again(numbers[row], one) if again is not None else None
            if following is not None:
                waiting.appendleft((numbers[row], following))
        for row in sorted(rows, reverse=True):
            slots.remove(row)
            numbers[row] = numbers[-1]
            numbers.pop()
    return [results[number] for number in range(len(requests))]


def _spoken(finished: Finished, end_of_text: int) -> Iterator[DecodedTokens]:
    counts = finished.count.tolist()
    said = finished.said.tolist()
    probabilities = finished.log_probability.tolist()
    silences = finished.no_speech.tolist()
    prompts = finished.prompt_length.tolist()
    for row, count in enumerate(counts):
        ended = count > 0 and said[row][count - 1] == end_of_text
        first = prompts[row] - 1  # the position whose query chose the first token
        yield DecodedTokens(
            tokens=tuple(said[row][: count - ended]),
            log_probabilities=tuple(probabilities[row][:count]),
            no_speech=silences[row],
            queries=finished.queries[row, :, first : first + count],
        )
