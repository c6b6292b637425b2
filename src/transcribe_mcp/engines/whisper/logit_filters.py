"""Logit filters: which tokens may come next. They run on the device without synchronisation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..tokenizer import Vocabulary
from .checkpoint import GenerationConfig

NEVER = float("-inf")


@dataclass(frozen=True, slots=True)
class TokenHistory:
    """The tokens so far, as far as the filters look back. All (R,).

    Attributes:
        count: number of tokens.
        last, before_last: the last two tokens; undefined if there are fewer.
        latest_timestamp: the last timestamp token, or one less than the first timestamp token.
    """

    count: Tensor
    last: Tensor
    before_last: Tensor
    latest_timestamp: Tensor


@dataclass(frozen=True, slots=True)
class Rules:
    """Biases for the logits: 0 or minus infinity.

    Attributes:
        biases: (2, V): for all tokens, and in addition for the first token.
        timestamps: filter for timestamps, if they are decoded.
    """

    biases: Tensor
    timestamps: TimestampRules | None = None

    def __call__(self, logits: Tensor, said: TokenHistory) -> Tensor:
        """(R, V) float32 -> the same, suppressed tokens at minus infinity. On a CPU in place."""
        if logits.device.type == "cpu":  # reading is free, another (R, V) is not
            logits += self.biases[0]
            for row in torch.nonzero(said.count == 0)[:, 0].tolist():
                logits[row] += self.biases[1]
        else:
            logits = logits + self.biases[(said.count == 0).long()]
        return logits if self.timestamps is None else self.timestamps(logits, said)


@dataclass(frozen=True, slots=True)
class TimestampRules:
    """Timestamps come in pairs, increase, and start the text. They are forced if their total
    probability is higher than that of the best text token.

    As openai-whisper's ``ApplyTimestampRules``.
    """

    begin: int  # the token of 0.00 s; all above are timestamps
    end_of_text: int
    latest_first: int | None  # token of the latest first timestamp

    def __call__(self, logits: Tensor, said: TokenHistory) -> Tensor:
        ids = torch.arange(logits.shape[1], device=logits.device)
        is_timestamp = ids >= self.begin
        is_text = ids < self.end_of_text
        none_said = (said.count == 0)[:, None]
        one_said = (said.count == 1)[:, None]
        after_one = ((said.last >= self.begin) & (said.count > 0))[:, None]
        after_two = after_one & ((said.before_last >= self.begin)[:, None] | one_said)
        forbidden = (after_two & is_timestamp) | (after_one & ~after_two & is_text)
        # A pair may close where it opened; the next one begins later.
        earliest = said.latest_timestamp[:, None] + (~(after_one & ~after_two)).long()
        forbidden |= is_timestamp & (ids < earliest)
        forbidden |= none_said & ~is_timestamp
        if self.latest_first is not None:
            forbidden |= none_said & (ids > self.latest_first)
        logits = logits.masked_fill(forbidden, NEVER)
        log_probabilities = torch.log_softmax(logits, dim=-1)
        together = log_probabilities[:, self.begin :].logsumexp(dim=-1)
        wins = together > log_probabilities[:, : self.begin].amax(dim=-1)
        return logits.masked_fill(wins[:, None] & ~is_timestamp, NEVER)


def make_rules(
    vocabulary: Vocabulary, directions: GenerationConfig, like: Tensor, *, timestamps: bool
) -> Rules:
    """The filters of a model. ``like`` is its embedding, (V, d) on its device."""
    begin = vocabulary.timestamp_begin
    n_tokens = len(like)
    forbidden = {*directions.suppressed, *(token for token in vocabulary.special if token < begin)}
    forbidden -= {vocabulary.end_of_text}
    if not timestamps:
        forbidden |= set(range(begin, n_tokens))
    latest = directions.first_timestamp_index
    stamps = TimestampRules(
        begin, vocabulary.end_of_text, None if latest is None else begin + latest
    )
    first = forbidden | set(directions.suppressed_first)
    biases = torch.zeros(2, n_tokens, dtype=torch.float32)
    for row, tokens in zip(biases, (forbidden, first), strict=True):
        row[[token for token in tokens if token < n_tokens]] = NEVER
    return Rules(biases.to(like.device), stamps if timestamps else None)
