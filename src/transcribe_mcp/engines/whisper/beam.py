"""Beam search: several texts of each window at once, the likeliest kept (openai-whisper's ``BeamSearchDecoder``).

The role that ranks: of the finished texts of a window, the one whose tokens are likeliest on average. Not captured:
who wants several hypotheses wants accuracy, and the caches move at every step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .alignment import spoken_anew
from .attention import TorchAttention
from .caches import Heads, text_cache
from .model import Whisper, decode, logits_of
from .rules import Said
from .runner import Spoken
from .slots import Request, StepRules


@dataclass(slots=True)
class _Beam:
    """Texts of one window: those that go on, and those that ended, each with its log-probabilities."""

    going: list[tuple[tuple[int, ...], tuple[float, ...]]]
    ended: list[tuple[tuple[int, ...], tuple[float, ...]]] = field(default_factory=list)

    def best(self) -> tuple[tuple[int, ...], tuple[float, ...]]:
        return max(self.ended or self.going, key=lambda text: sum(text[1]) / max(1, len(text[1])))


def search(model: Whisper, requests: Sequence[Request], step: StepRules, size: int, heads: Heads) -> list[Spoken]:
    """Decode each window with ``size`` hypotheses."""
    return [_search_one(model, request, step, size, heads) for request in requests]


def _search_one(model: Whisper, request: Request, step: StepRules, size: int, heads: Heads) -> Spoken:
    n_given = len(request.prompt)
    context = min(model.geometry.max_target_positions, n_given + step.limits.most)
    text = text_cache(model, size, context)
    prompt = torch.tensor([request.prompt], device=model.device)
    positions = torch.arange(n_given, device=model.device)[None]
    states = decode(model, prompt, positions, TorchAttention(positions, text, [request.audio], n_given))
    logits = logits_of(model, states[0, [request.start, n_given - 1]])
    no_speech = float(torch.softmax(logits[0], dim=-1)[step.no_speech])
    text[:, :, 1:] = text[:, :, :1]
    beam = _Beam(going=[((), ())])
    logits = logits[1:]
    for position in range(n_given, context + 1):
        origins = _extend(beam, logits, step, size)
        if len(beam.ended) >= size or not beam.going or position == context:
            break
        n_rows = len(beam.going)
        text[:, :, :n_rows, :, :position] = text[:, :, origins, :, :position]
        last = torch.tensor([[tokens[-1]] for tokens, _ in beam.going], device=model.device)
        at = torch.full((n_rows, 1), position, device=model.device)
        attention = TorchAttention(at, text, [request.audio] * n_rows, position + 1)
        logits = logits_of(model, decode(model, last, at, attention)[:, 0])
    tokens, log_probabilities = beam.best()
    ended = tokens[-1:] == (step.end_of_text,)
    said = tokens[:-1] if ended else tokens
    given = request.prompt[request.start :]
    queries, _ = spoken_anew(model, heads, request.audio, given, [*said, step.end_of_text])
    return Spoken(said, log_probabilities, no_speech, queries)


def _extend(beam: _Beam, logits: Tensor, step: StepRules, size: int) -> list[int]:
    """The likeliest continuations; returns the row that each text which goes on came from."""
    texts = [tokens for tokens, _ in beam.going]
    allowed = step.rules(logits, _said(texts, step, logits.device)).log_softmax(dim=-1)
    if step.limits.least > len(texts[0]):
        allowed[:, step.end_of_text] = float("-inf")
    sums = torch.tensor([sum(probabilities) for _, probabilities in beam.going], device=logits.device)
    n_candidates = size + 1  # one more than wanted from each, since one of them may end
    values, tokens = allowed.topk(n_candidates, dim=-1)
    order = (values + sums[:, None]).flatten().argsort(descending=True).tolist()
    flat_values, flat_tokens = values.flatten().tolist(), tokens.flatten().tolist()
    going, origins = [], []
    for candidate in order:
        row, token, value = candidate // n_candidates, flat_tokens[candidate], flat_values[candidate]
        if value == float("-inf"):
            break
        extended = ((*texts[row], token), (*beam.going[row][1], value))
        if token == step.end_of_text:
            if len(beam.ended) < size:
                beam.ended.append(extended)
            continue
        going.append(extended)
        origins.append(row)
        if len(going) == size:
            break
    beam.going = going or beam.going
    if not going or len(going[0][0]) >= step.limits.most:
        beam.ended += beam.going if not beam.ended else []
        beam.going = []
    return origins


def _said(texts: Sequence[tuple[int, ...]], step: StepRules, device: torch.device) -> Said:
    def column(values: Sequence[int]) -> Tensor:
        return torch.tensor(values, device=device)

    stamps = [[token for token in text if token >= step.timestamp_begin] for text in texts]
    return Said(
        count=column([len(text) for text in texts]),
        last=column([text[-1] if text else 0 for text in texts]),
        before_last=column([text[-2] if len(text) > 1 else 0 for text in texts]),
        latest_timestamp=column([own[-1] if own else step.timestamp_begin - 1 for own in stamps]),
    )
