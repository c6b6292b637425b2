"""Triton kernels for CUDA: what a decoding step and the encoder's seams spend their time on. Twins: ``attention``,
``model.Operations``, ``caches.audio_cache``, ``slots.advance``.

A decoding step reads the audio's keys and values once and computes next to nothing on them, so its kernels are built
to keep loads in flight: one program for every row and head, in which each lane of a tile goes over its own share of
the positions with a softmax of its own, and only the end brings the lanes together.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from .caches import AudioCache, KeptQueries
from .model import NORM_EPSILON, Norm, Whisper
from .slots import RowState, StepRules

LOG2_E = 1.4426950408889634
POINTER_OF = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16, torch.int8: tl.int8}


@triton.jit
def _norm_kernel(
    x, change, weight, bias, total, normed, width, EPSILON: tl.constexpr, ADD: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < width
    values = tl.load(x + row * width + at, inside, 0.0).to(tl.float32)
    if ADD:
        values += tl.load(change + row * width + at, inside, 0.0).to(tl.float32)
        tl.store(total + row * width + at, values.to(total.dtype.element_ty), inside)
    mean = tl.sum(values, 0) / width
    centred = tl.where(inside, values - mean, 0.0)
    scale = tl.rsqrt(tl.sum(centred * centred, 0) / width + EPSILON)
    gain = tl.load(weight + at, inside, 0.0).to(tl.float32)
    shift = tl.load(bias + at, inside, 0.0).to(tl.float32)
    tl.store(normed + row * width + at, (centred * scale * gain + shift).to(normed.dtype.element_ty), inside)


def norm(x: Tensor, of: Norm) -> Tensor:
    x = x.contiguous()
    normed = torch.empty_like(x)
    _launch_norm(x, x, of, x, normed, add=False)
    return normed


def add_norm(x: Tensor, change: Tensor, of: Norm) -> tuple[Tensor, Tensor]:
    x = x.contiguous()
    total, normed = torch.empty_like(x), torch.empty_like(x)
    _launch_norm(x, change.contiguous(), of, total, normed, add=True)
    return total, normed


def _launch_norm(x: Tensor, change: Tensor, of: Norm, total: Tensor, normed: Tensor, *, add: bool) -> None:
    width = x.shape[-1]
    block = triton.next_power_of_2(width)
    _norm_kernel[(x.numel() // width,)](
        x,
        change,
        of.weight,
        of.bias,
        total,
        normed,
        width,
        NORM_EPSILON,
        add,
        block,
        num_warps=4 if block <= 2048 else 8,
    )


@triton.jit
def _joined(largest, weight, mixed):
    """Lanes (N,), (N,), (N, D) of partial softmaxes -> maximum, sum, mixture (D,) of them all."""
    most = tl.max(largest, 0)
    share = tl.exp2(largest - most)
    return most, tl.sum(weight * share, 0), tl.sum(mixed * share[:, None], 0)


@triton.jit
def _text_kernel(
    query_key_value, keys, values, positions, done, out, scale,
    HEADS: tl.constexpr, SIZE: tl.constexpr, CAPACITY: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    row, head = tl.program_id(0), tl.program_id(1)
    if tl.load(done + row) != 0:
        return
    position = tl.load(positions + row).to(tl.int32)
    channel = tl.arange(0, SIZE)
    here = query_key_value + row * (3 * HEADS * SIZE) + head * SIZE + channel
    query = tl.load(here).to(tl.float32) * scale
    key, value = tl.load(here + HEADS * SIZE), tl.load(here + 2 * HEADS * SIZE)
    base = (row * HEADS + head).to(tl.int64) * CAPACITY * SIZE
    tl.store(keys + base + position * SIZE + channel, key)
    tl.store(values + base + position * SIZE + channel, value)

    lane = tl.arange(0, LANES)
    largest = tl.full((LANES,), -1e30, tl.float32)
    weight = tl.zeros((LANES,), tl.float32)
    mixed = tl.zeros((LANES, SIZE), tl.float32)
    for first in range(0, position, LANES):
        seen = first + lane < position
        at = base + (first + lane)[:, None] * SIZE + channel[None]
        score = tl.sum(tl.load(keys + at, seen[:, None], 0.0).to(tl.float32) * query[None], 1)
        score = tl.where(seen, score, float("-inf"))
        most = tl.maximum(largest, score)
        kept, new = tl.exp2(largest - most), tl.exp2(score - most)
        weight = weight * kept + new
        mixed = mixed * kept[:, None] + new[:, None] * tl.load(values + at, seen[:, None], 0.0).to(tl.float32)
        largest = most
    before, total, mixture = _joined(largest, weight, mixed)
    score = tl.sum(query * key.to(tl.float32), 0)
    most = tl.maximum(before, score)
    kept, new = tl.exp2(before - most), tl.exp2(score - most)
    result = (mixture * kept + value.to(tl.float32) * new) / (total * kept + new)
    tl.store(out + (row * HEADS + head) * SIZE + channel, result.to(out.dtype.element_ty))


@triton.jit
def _audio_kernel(
    query, addresses, scale_addresses, done, positions, kept_at, kept, out, layer, scale,
    HEADS: tl.constexpr, SIZE: tl.constexpr, AUDIO: tl.constexpr, ELEMENT: tl.constexpr, SCALED: tl.constexpr,
    KEPT_HEADS: tl.constexpr, KEPT_POSITIONS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    row, head = tl.program_id(0), tl.program_id(1)
    if tl.load(done + row) != 0:
        return
    channel, lane = tl.arange(0, SIZE), tl.arange(0, LANES)
    asked = tl.load(query + (row * HEADS + head) * SIZE + channel)
    place = tl.load(kept_at + layer * HEADS + head)
    if place >= 0:
        position = tl.load(positions + row)
        target = ((row.to(tl.int64) * KEPT_HEADS + place) * KEPT_POSITIONS + position) * SIZE
        tl.store(kept + target + channel, asked)
    own = ((layer * 2 * HEADS) + head).to(tl.int64)
    audio = tl.load(addresses + row).to(tl.pointer_type(ELEMENT))
    keys = audio + own * AUDIO * SIZE
    values = keys + HEADS * AUDIO * SIZE
    asked = asked.to(tl.float32) * scale
    if SCALED:
        scales = tl.load(scale_addresses + row).to(tl.pointer_type(tl.float32)) + own * SIZE + channel
        asked *= tl.load(scales)

    at = lane[:, None] * SIZE + channel[None]
    largest = tl.sum(tl.load(keys + at).to(tl.float32) * asked[None], 1)
    weight = tl.full((LANES,), 1.0, tl.float32)
    mixed = tl.load(values + at).to(tl.float32)
    for first in range(LANES, AUDIO, LANES):
        heard = first + lane < AUDIO
        block = at + first * SIZE
        key = tl.load(keys + block, heard[:, None], 0.0)
        value = tl.load(values + block, heard[:, None], 0.0)
        score = tl.where(heard, tl.sum(key.to(tl.float32) * asked[None], 1), float("-inf"))
        most = tl.maximum(largest, score)
        old, new = tl.exp2(largest - most), tl.exp2(score - most)
        weight = weight * old + new
        mixed = mixed * old[:, None] + new[:, None] * value.to(tl.float32)
        largest = most
    _, total, mixture = _joined(largest, weight, mixed)
    result = mixture / total
    if SCALED:
        result *= tl.load(scales + HEADS * SIZE)
    tl.store(out + (row * HEADS + head) * SIZE + channel, result.to(out.dtype.element_ty))


@triton.jit
def _quantize_kernel(
    both, values, scales, AUDIO: tl.constexpr, HEADS: tl.constexpr, SIZE: tl.constexpr, LAYERS: tl.constexpr,
    layer, LANES: tl.constexpr,
):  # fmt: skip
    """(B, T, 2, H, D) -> one layer of (B, layers, 2, H, T, D) in 8 bits and its scales."""
    window, part = tl.program_id(0).to(tl.int64), tl.program_id(1)  # part: of keys and values, then head
    channel, lane = tl.arange(0, SIZE), tl.arange(0, LANES)
    source = both + window * AUDIO * 2 * HEADS * SIZE + part * SIZE
    largest = tl.zeros((LANES, SIZE), tl.float32)
    for first in range(0, AUDIO, LANES):
        heard = (first + lane < AUDIO)[:, None]
        block = tl.load(source + (first + lane)[:, None] * (2 * HEADS * SIZE) + channel[None], heard, 0.0)
        largest = tl.maximum(largest, tl.abs(block.to(tl.float32)))
    scale = tl.maximum(tl.max(largest, 0), 1e-6 * 127) / 127
    own = (window * LAYERS + layer) * 2 * HEADS + part
    tl.store(scales + own * SIZE + channel, scale)
    for first in range(0, AUDIO, LANES):
        heard = (first + lane < AUDIO)[:, None]
        block = tl.load(source + (first + lane)[:, None] * (2 * HEADS * SIZE) + channel[None], heard, 0.0)
        exact = block.to(tl.float32) / scale[None]
        rounded = tl.where(exact >= 0, exact + 0.5, exact - 0.5).to(tl.int8)
        tl.store(values + own * AUDIO * SIZE + (first + lane)[:, None] * SIZE + channel[None], rounded, heard)


def audio_cache(model: Whisper, states: Tensor) -> AudioCache:
    """``caches.audio_cache`` in 8 bits."""
    n, n_positions, _ = states.shape
    layers, heads, size = len(model.decoder_layers), model.heads, model.head_size
    values = torch.empty((n, layers, 2, heads, n_positions, size), dtype=torch.int8, device=states.device)
    scales = torch.empty((n, layers, 2, heads, size), dtype=torch.float32, device=states.device)
    for number, layer in enumerate(model.decoder_layers):
        both = layer.audio_key_value(states)
        _quantize_kernel[(n, 2 * heads)](
            both, values, scales, n_positions, heads, size, layers, number, 64, num_warps=4
        )  # fmt: skip
    return AudioCache(values, scales)


@triton.jit
def _advance_kernel(
    logits, biases, token, position, prompt, prompt_length, start, done, last, before_last, said,
    log_probability, count, no_speech, n_tokens, least, most, end_of_text, no_speech_id,
    N_POSITIONS: tl.constexpr, SAID: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    if tl.load(done + row) != 0:
        return
    lane = tl.arange(0, BLOCK)
    here = logits + row.to(tl.int64) * n_tokens
    at = tl.load(position + row)
    if at == tl.load(start + row):
        largest = tl.full((BLOCK,), -1e30, tl.float32)
        weight = tl.zeros((BLOCK,), tl.float32)
        for first in range(0, n_tokens, BLOCK):
            inside = first + lane < n_tokens
            score = tl.load(here + first + lane, inside, float("-inf"))
            top = tl.maximum(largest, score)
            weight = weight * tl.exp(largest - top) + tl.exp(score - top)
            largest = top
        top = tl.max(largest, 0)
        total = tl.sum(weight * tl.exp(largest - top), 0)
        tl.store(no_speech + row, tl.exp(tl.load(here + no_speech_id) - top) / total)
    n_said = tl.load(count + row)
    length = tl.load(prompt_length + row)
    following = tl.minimum(at + 1, N_POSITIONS - 1)
    tl.store(position + row, following)
    if at + 1 < length:
        tl.store(token + row, tl.load(prompt + row * N_POSITIONS + following))
        if at + 1 >= N_POSITIONS:
            tl.store(done + row, 1)
    else:
        bias = biases + tl.where(n_said == 0, n_tokens, 0)
        largest = tl.full((BLOCK,), -1e30, tl.float32)
        weight = tl.zeros((BLOCK,), tl.float32)
        best = tl.full((BLOCK,), -1e30, tl.float32)
        which = tl.zeros((BLOCK,), tl.int32)
        for first in range(0, n_tokens, BLOCK):
            inside = first + lane < n_tokens
            score = tl.load(here + first + lane, inside, float("-inf")) + tl.load(bias + first + lane, inside, 0.0)
            score = tl.where((first + lane == end_of_text) & (n_said < least), float("-inf"), score)
            top = tl.maximum(largest, score)
            weight = weight * tl.exp(largest - top) + tl.exp(score - top)
            largest = top
            which = tl.where(score > best, first + lane, which)
            best = tl.maximum(best, score)
        top = tl.max(best, 0)
        chosen = tl.min(tl.where(best == top, which, 2147483647), 0).to(tl.int64)
        total = tl.sum(weight * tl.exp(largest - top), 0)
        place = row * SAID + tl.minimum(n_said, SAID - 1)
        tl.store(said + place, chosen)
        tl.store(log_probability + place, -tl.log(total))
        tl.store(before_last + row, tl.load(last + row))
        tl.store(last + row, chosen)
        tl.store(count + row, n_said + 1)
        tl.store(token + row, chosen)
        if (chosen == end_of_text) | (n_said + 1 >= most) | (at + 1 >= N_POSITIONS):
            tl.store(done + row, 1)


def advance(state: RowState, logits: Tensor, step: StepRules) -> None:
    """``slots.advance`` for rows at temperature 0 without timestamps."""
    _advance_kernel[(len(logits),)](
        logits, step.rules.biases, state.token, state.position, state.prompt, state.prompt_length,
        state.start, state.done.view(torch.uint8), state.last, state.before_last, state.said, state.log_probability,
        state.count, state.no_speech, logits.shape[1], step.limits.least, step.limits.most, step.end_of_text,
        step.no_speech, state.prompt.shape[1], state.said.shape[1], 2048, num_warps=8,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tuning:
    """Positions that a program goes over at once, and its warps; measured on an H100, see docs/performance.md."""

    lanes: int = 64
    warps: int = 4


class TritonAttention:
    """``attention.TorchAttention`` for one token a row. Caches and state are static tensors."""

    def __init__(self, state: RowState, text: Tensor, queries: KeptQueries, audio: AudioShape, tuning: Tuning) -> None:
        self._state, self._text, self._queries, self._audio, self._tuning = state, text, queries, audio, tuning
        self._done = state.done.view(torch.uint8)
        self._scale = LOG2_E / audio.size**0.5

    def text(self, layer: int, query_key_value: Tensor) -> Tensor:
        rows, _, width = query_key_value.shape
        heads, size = self._audio.heads, self._audio.size
        out = torch.empty((rows, 1, width // 3), dtype=query_key_value.dtype, device=query_key_value.device)
        _text_kernel[(rows, heads)](
            query_key_value, self._text[layer, 0], self._text[layer, 1], self._state.position, self._done, out,
            self._scale, heads, size, self._text.shape[4], 32, num_warps=2,
        )  # fmt: skip
        return out

    def audio(self, layer: int, query: Tensor) -> Tensor:
        out, shape = torch.empty_like(query), self._audio
        _audio_kernel[(len(query), shape.heads)](
            query, self._state.audio_address, self._state.scale_address, self._done, self._state.position,
            shape.kept_at, self._queries.values, out, layer, self._scale, shape.heads, shape.size, shape.positions,
            POINTER_OF[shape.dtype], shape.scaled, max(1, self._queries.values.shape[1]),
            self._queries.values.shape[2], self._tuning.lanes, num_warps=self._tuning.warps,
        )  # fmt: skip
        return out


@dataclass(frozen=True, slots=True)
class AudioShape:
    """How every ``AudioCache`` of a model looks.

    Attributes:
        kept_at: (layers, heads) int32, where the queries of a head are kept; -1: they are not.
    """

    heads: int
    size: int
    positions: int
    dtype: torch.dtype
    scaled: bool
    kept_at: Tensor

    @classmethod
    def of(cls, model: Whisper, queries: KeptQueries, *, int8: bool) -> AudioShape:
        kept_at = torch.full((len(model.decoder_layers), model.heads), -1, dtype=torch.int32)
        for place, (layer, head) in enumerate(queries.heads):
            kept_at[layer, head] = place
        dtype = torch.int8 if int8 else model.dtype
        positions = model.geometry.max_source_positions
        return cls(model.heads, model.head_size, positions, dtype, int8, kept_at.to(model.device))
