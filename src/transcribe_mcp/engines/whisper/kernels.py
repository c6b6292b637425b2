"""Triton kernels for decoding steps and for the encoder's norms.

References in torch: ``attention``, ``model.Operations``, ``caches.audio_cache``,
``decode_slots.advance``.

A decoding step is bound by reading the keys and values of the audio, so the kernels keep many loads
in flight. One program handles a row and head. Each lane of a tile has its own share of the
positions and its own online softmax; the lanes are combined at the end.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...speech.lstm_kernels import launch_problem
from .caches import UNIT_BYTES, AudioCache, KeptQueries
from .decode_slots import RowState, Slots, StepRules
from .model import NORM_EPSILON, Norm, Whisper

LOG2_E = 1.4426950408889634
EMULATED = os.environ.get("TRITON_INTERPRET") == "1"  # the interpreter has no inline assembly


@triton.jit
def _norm_kernel(
    x,
    change,
    weight,
    bias,
    total,
    normed,
    width,
    EPSILON: tl.constexpr,
    ADD: tl.constexpr,
    BLOCK: tl.constexpr,
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
    tl.store(
        normed + row * width + at,
        (centred * scale * gain + shift).to(normed.dtype.element_ty),
        inside,
    )


def problem(width: int, dtype: torch.dtype, device: torch.device) -> str:
    """Why Triton cannot launch a kernel on the device; empty if it can. Raises RuntimeError if
    memory is short.
    """
    ones = torch.ones(width, dtype=dtype, device=device)
    return launch_problem(lambda: norm(ones[None], Norm(ones, ones)))


def norm(x: Tensor, of: Norm) -> Tensor:
    x = x.contiguous()
    normed = torch.empty_like(x)
    _launch_norm(x, x, of, x, normed, add=False)
    return normed


def add_norm(x: Tensor, change: Tensor, of: Norm) -> tuple[Tensor, Tensor]:
    x = x.contiguous()
    total = torch.empty_like(x)
    normed = torch.empty_like(x)
    _launch_norm(x, change.contiguous(), of, total, normed, add=True)
    return total, normed


def _launch_norm(
    x: Tensor, change: Tensor, of: Norm, total: Tensor, normed: Tensor, *, add: bool
) -> None:
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
    """Combine the partial softmaxes of N lanes -> maximum, sum, weighted values (D,)."""
    most = tl.max(largest, 0)
    share = tl.exp2(largest - most)
    return most, tl.sum(weight * share, 0), tl.sum(mixed * share[:, None], 0)


@triton.jit
def _text_kernel(
    query_key_value, keys, values, positions, done, out, scale,
    HEADS: tl.constexpr, SIZE: tl.constexpr, CAPACITY: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    head = tl.program_id(1)
    if tl.load(done + row) != 0:
        return
    position = tl.load(positions + row).to(tl.int32)
    channel = tl.arange(0, SIZE)
    here = query_key_value + row * (3 * HEADS * SIZE) + head * SIZE + channel
    query = tl.load(here).to(tl.float32) * scale
    key = tl.load(here + HEADS * SIZE)
    value = tl.load(here + 2 * HEADS * SIZE)
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
        kept = tl.exp2(largest - most)
        new = tl.exp2(score - most)
        weight = weight * kept + new
        mixed = mixed * kept[:, None] + new[:, None] * tl.load(values + at, seen[:, None], 0.0).to(
            tl.float32
        )
        largest = most
    before, total, mixture = _joined(largest, weight, mixed)
    score = tl.sum(query * key.to(tl.float32), 0)
    most = tl.maximum(before, score)
    kept = tl.exp2(before - most)
    new = tl.exp2(score - most)
    result = (mixture * kept + value.to(tl.float32) * new) / (total * kept + new)
    tl.store(out + (row * HEADS + head) * SIZE + channel, result.to(out.dtype.element_ty))


@triton.jit
def _audio_kernel(
    query, anchor, places, done, positions, kept_at, kept, out, layer, scale,
    HEADS: tl.constexpr, SIZE: tl.constexpr, AUDIO: tl.constexpr, STEP: tl.constexpr,
    KEPT_HEADS: tl.constexpr, KEPT_POSITIONS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Keys and values in 16 or 32 bits. ``places`` are offsets from ``anchor`` in units of 16 bytes
    (STEP elements), so the compiler can load 16 bytes at once."""
    row = tl.program_id(0)
    head = tl.program_id(1)
    if tl.load(done + row) != 0:
        return
    channel = tl.arange(0, SIZE)
    lane = tl.arange(0, LANES)
    asked = tl.load(query + (row * HEADS + head) * SIZE + channel)
    _keep(
        asked, row, head, layer, positions, kept_at, kept, HEADS, SIZE, KEPT_HEADS, KEPT_POSITIONS
    )
    keys = (
        anchor
        + tl.load(places + row) * STEP
        + (layer * 2 * HEADS + head).to(tl.int64) * (AUDIO * SIZE)
    )
    values = keys + HEADS * AUDIO * SIZE
    asked = asked.to(tl.float32) * scale

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
        old = tl.exp2(largest - most)
        new = tl.exp2(score - most)
        weight = weight * old + new
        mixed = mixed * old[:, None] + new[:, None] * value.to(tl.float32)
        largest = most
    _, total, mixture = _joined(largest, weight, mixed)
    tl.store(
        out + (row * HEADS + head) * SIZE + channel, (mixture / total).to(out.dtype.element_ty)
    )


@triton.jit
def _keep(
    asked, row, head, layer, positions, kept_at, kept,
    HEADS: tl.constexpr, SIZE: tl.constexpr, KEPT_HEADS: tl.constexpr, KEPT_POSITIONS: tl.constexpr,
):  # fmt: skip
    """Store the query of an alignment head."""
    place = tl.load(kept_at + layer * HEADS + head)
    if place >= 0:
        target = (
            (row.to(tl.int64) * KEPT_HEADS + place) * KEPT_POSITIONS + tl.load(positions + row)
        ) * SIZE
        tl.store(kept + target + tl.arange(0, SIZE), asked)


@triton.jit
def _dot4(a, b, c, EMULATED: tl.constexpr):
    """c plus the dot product of four int8 pairs packed in int32: one GPU instruction (dp4a)."""
    if EMULATED:
        total = c
        for shift in tl.static_range(0, 32, 8):
            total += ((a << (24 - shift)) >> 24) * ((b << (24 - shift)) >> 24)
        return total
    return tl.inline_asm_elementwise(
        "dp4a.s32.s32 $0, $1, $2, $3;", "=r,r,r,r", [a, b, c], dtype=tl.int32, is_pure=True, pack=1
    )


@triton.jit
def _packed(a, b, c, d):
    """Pack four 8-bit numbers into an int32."""
    return (a & 255) | ((b & 255) << 8) | ((c & 255) << 16) | ((d & 255) << 24)


@triton.jit
def _audio_int8_kernel(
    query, anchor, places, scale_anchor, scale_places, done, positions, kept_at, kept, out, layer,
    scale,
    HEADS: tl.constexpr, SIZE: tl.constexpr, AUDIO: tl.constexpr, KEPT_HEADS: tl.constexpr,
    KEPT_POSITIONS: tl.constexpr, LANES: tl.constexpr, EMULATED: tl.constexpr,
):  # fmt: skip
    """int8 keys and values, four to an int32: four channels of a key, four positions of a value's
    channel.

    Products are exact. The query and the softmax weights have 15 bits, as two 8-bit numbers, scaled
    by the query's largest channel and by the lane's largest weight so far. A lane handles four
    positions at a time.
    """
    row = tl.program_id(0)
    head = tl.program_id(1)
    if tl.load(done + row) != 0:
        return
    WORDS: tl.constexpr = SIZE // 4
    GROUPS: tl.constexpr = AUDIO // 4
    channel = tl.arange(0, SIZE)
    word = tl.arange(0, WORDS)
    lane = tl.arange(0, LANES)
    here = query + (row * HEADS + head) * SIZE
    own = (layer * 2 * HEADS + head).to(tl.int64)
    scales = scale_anchor + tl.load(scale_places + row) * 4 + own * SIZE
    asked = tl.load(here + channel)
    _keep(
        asked, row, head, layer, positions, kept_at, kept, HEADS, SIZE, KEPT_HEADS, KEPT_POSITIONS
    )
    exact = asked.to(tl.float32) * tl.load(scales + channel)
    unit = (
        tl.maximum(tl.max(tl.abs(exact), 0), 1e-30) / 32512
    )  # 127 * 256: both halves stay within 8 bits
    high, low = _query_words(here, scales, word, unit)
    unit *= scale

    keys = anchor + tl.load(places + row) * 4 + own * (AUDIO * WORDS)
    values = keys + HEADS * AUDIO * WORDS
    at_key = (lane * 4)[:, None] * WORDS + word[None]
    at_value = lane[:, None] * SIZE + channel[None]
    zero = tl.zeros((LANES, WORDS), tl.int32)
    none = tl.zeros((LANES, SIZE), tl.int32)
    largest = tl.full((LANES,), -1e30, tl.float32)
    weight = tl.zeros((LANES,), tl.float32)
    mixed = tl.zeros((LANES, SIZE), tl.float32)
    for first in range(0, GROUPS, LANES):
        heard = first + lane < GROUPS
        inside = heard[:, None]
        block = keys + at_key + first * (4 * WORDS)
        key0 = tl.load(block, inside, 0)
        key1 = tl.load(block + WORDS, inside, 0)
        key2 = tl.load(block + 2 * WORDS, inside, 0)
        key3 = tl.load(block + 3 * WORDS, inside, 0)
        value = tl.load(values + at_value + first * SIZE, inside, 0)
        score0 = _score(key0, high, low, zero, unit, EMULATED)
        score1 = _score(key1, high, low, zero, unit, EMULATED)
        score2 = _score(key2, high, low, zero, unit, EMULATED)
        score3 = _score(key3, high, low, zero, unit, EMULATED)
        most = tl.maximum(tl.maximum(score0, score1), tl.maximum(score2, score3))
        most = tl.where(heard, tl.maximum(largest, most), largest)
        old = tl.exp2(largest - most)
        # A weight of 1 is 127 * 256, as for the query.
        share0 = tl.where(heard, tl.exp2(score0 - most) * 32512 + 0.5, 0.0).to(tl.int32)
        share1 = tl.where(heard, tl.exp2(score1 - most) * 32512 + 0.5, 0.0).to(tl.int32)
        share2 = tl.where(heard, tl.exp2(score2 - most) * 32512 + 0.5, 0.0).to(tl.int32)
        share3 = tl.where(heard, tl.exp2(score3 - most) * 32512 + 0.5, 0.0).to(tl.int32)
        upper = _packed(
            (share0 + 128) >> 8, (share1 + 128) >> 8, (share2 + 128) >> 8, (share3 + 128) >> 8
        )
        lower = _packed(share0, share1, share2, share3)
        product = _dot4(value, upper[:, None], none, EMULATED)
        product = _dot4(value, lower[:, None], product << 8, EMULATED)
        weight = weight * old + (share0 + share1 + share2 + share3).to(tl.float32)
        mixed = mixed * old[:, None] + product.to(tl.float32)
        largest = most
    _, total, mixture = _joined(largest, weight, mixed)
    result = mixture / total * tl.load(scales + HEADS * SIZE + channel)
    tl.store(out + (row * HEADS + head) * SIZE + channel, result.to(out.dtype.element_ty))


@triton.jit
def _score(key, high, low, zero, unit, EMULATED: tl.constexpr):
    """(LANES, WORDS) keys and (1, WORDS) halves of the query -> (LANES,)."""
    product = _dot4(key, high, zero, EMULATED)
    return tl.sum(_dot4(key, low, product << 8, EMULATED), 1).to(tl.float32) * unit


@triton.jit
def _query_words(here, scales, word, unit):
    """The query as 15-bit integers, in two signed 8-bit halves: (1, WORDS) each."""
    digits0 = _digits(here, scales, word * 4, unit)
    digits1 = _digits(here, scales, word * 4 + 1, unit)
    digits2 = _digits(here, scales, word * 4 + 2, unit)
    digits3 = _digits(here, scales, word * 4 + 3, unit)
    high = _packed(
        (digits0 + 128) >> 8, (digits1 + 128) >> 8, (digits2 + 128) >> 8, (digits3 + 128) >> 8
    )
    return high[None], _packed(digits0, digits1, digits2, digits3)[None]


@triton.jit
def _digits(here, scales, at, unit):
    exact = tl.load(here + at).to(tl.float32) * tl.load(scales + at) / unit
    return tl.where(exact >= 0, exact + 0.5, exact - 0.5).to(tl.int32)


@triton.jit
def _rounded(source, at, channel, scale, AUDIO: tl.constexpr, STRIDE: tl.constexpr):
    """Quantize positions of a head to int8, as int32."""
    block = tl.load(source + at[:, None] * STRIDE + channel[None], (at < AUDIO)[:, None], 0.0)
    exact = block.to(tl.float32) / scale[None]
    return tl.where(exact >= 0, exact + 0.5, exact - 0.5).to(tl.int32)


@triton.jit
def _quantize_kernel(
    both, values, words, scales, layer, AUDIO: tl.constexpr, HEADS: tl.constexpr, SIZE:
    tl.constexpr,
    LAYERS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """(B, T, 2, H, D) -> one layer of an ``AudioCache`` in 8 bits and its scales. ``words``: the
    cache as int32.
    """
    STRIDE: tl.constexpr = 2 * HEADS * SIZE
    window = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)  # part: of keys and values, then head
    channel = tl.arange(0, SIZE)
    lane = tl.arange(0, LANES)
    source = both + window * (AUDIO * STRIDE) + part * SIZE
    largest = tl.zeros((LANES, SIZE), tl.float32)
    for first in range(0, AUDIO, LANES):
        at = first + lane
        block = tl.load(source + at[:, None] * STRIDE + channel[None], (at < AUDIO)[:, None], 0.0)
        largest = tl.maximum(largest, tl.abs(block.to(tl.float32)))
    scale = tl.maximum(tl.max(largest, 0), 1e-6 * 127) / 127
    own = (window * LAYERS + layer) * (2 * HEADS) + part
    tl.store(scales + own * SIZE + channel, scale)
    if part < HEADS:
        for first in range(0, AUDIO, LANES):
            at = first + lane
            rounded = _rounded(source, at, channel, scale, AUDIO, STRIDE).to(tl.int8)
            place = own * (AUDIO * SIZE) + at[:, None] * SIZE + channel[None]
            tl.store(values + place, rounded, (at < AUDIO)[:, None])
    else:  # four positions of a channel side by side
        for first in range(0, AUDIO // 4, LANES):
            group = first + lane
            value0 = _rounded(source, group * 4, channel, scale, AUDIO, STRIDE)
            value1 = _rounded(source, group * 4 + 1, channel, scale, AUDIO, STRIDE)
            value2 = _rounded(source, group * 4 + 2, channel, scale, AUDIO, STRIDE)
            value3 = _rounded(source, group * 4 + 3, channel, scale, AUDIO, STRIDE)
            place = own * (AUDIO // 4 * SIZE) + group[:, None] * SIZE + channel[None]
            tl.store(
                words + place,
                _packed(value0, value1, value2, value3),
                (group < AUDIO // 4)[:, None],
            )


def audio_cache(model: Whisper, states: Tensor) -> AudioCache:
    """``caches.audio_cache`` in 8 bits."""
    n, n_positions, _ = states.shape
    layers = len(model.decoder_layers)
    heads = model.heads
    size = model.head_size
    values = torch.empty(
        (n, layers, 2, heads, n_positions, size), dtype=torch.int8, device=states.device
    )
    scales = torch.empty((n, layers, 2, heads, size), dtype=torch.float32, device=states.device)
    for number, layer in enumerate(model.decoder_layers):
        both = layer.audio_key_value(states)
        _quantize_kernel[(n, 2 * heads)](
            both, values, values.view(torch.int32), scales, number, n_positions, heads, size,
            layers, 64, num_warps=4
        )  # fmt: skip
    return AudioCache(values, scales)


@triton.jit
def _advance_kernel(
    logits, biases, token, position, prompt, prompt_length, start, done, last, before_last, said,
    log_probability, count, no_speech, stride, n_tokens, least, most, end_of_text, no_speech_id,
    N_POSITIONS: tl.constexpr, SAID: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    if tl.load(done + row) != 0:
        return
    lane = tl.arange(0, BLOCK)
    here = logits + row.to(tl.int64) * stride
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
            score = tl.load(here + first + lane, inside, float("-inf")) + tl.load(
                bias + first + lane, inside, 0.0
            )
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
    """``decode_slots.advance`` for rows at temperature 0 without timestamps."""
    tuning = tuning_for(len(logits))
    _advance_kernel[(len(logits),)](
        logits, step.rules.biases, state.token, state.position, state.prompt, state.prompt_length,
        state.start, state.done.view(torch.uint8), state.last, state.before_last, state.said,
        state.log_probability,
        state.count, state.no_speech, logits.stride(0), logits.shape[1], step.limits.least,
        step.limits.most,
        step.end_of_text, step.no_speech, state.prompt.shape[1], state.said.shape[1], tuning.tokens,
        num_warps=tuning.token_warps,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tuning:
    """Tile sizes and warps of the kernels; measured on an H100, see docs/performance.md."""

    lanes: int = 32
    warps: int = 2
    int8_lanes: int = 16  # of four positions each
    int8_warps: int = 2
    tokens: int = 2048
    token_warps: int = 8


FEW_ROWS = 8  # with so few programs each has to keep more loads in flight
MANY_ROWS_TUNING = Tuning()
FEW_ROWS_TUNING = Tuning(
    lanes=64, warps=4, int8_lanes=512, int8_warps=16, tokens=8192, token_warps=16
)


def tuning_for(n_rows: int) -> Tuning:
    return FEW_ROWS_TUNING if n_rows <= FEW_ROWS else MANY_ROWS_TUNING


class TritonAttention:
    """``attention.TorchAttention`` for one token a row. Caches and state are static tensors."""

    def __init__(self, slots: Slots, n_rows: int, audio: AudioShape, tuning: Tuning) -> None:
        self._text = slots.text
        self._queries = slots.queries
        self._audio = audio
        self._tuning = tuning
        self._anchors = slots.anchors
        self._state = state = slots.state.first(n_rows)
        self._done = state.done.view(torch.uint8)
        self._scale = LOG2_E / audio.size**0.5

    def text(self, layer: int, query_key_value: Tensor) -> Tensor:
        rows, _, width = query_key_value.shape
        heads = self._audio.heads
        size = self._audio.size
        out = torch.empty(
            (rows, 1, width // 3), dtype=query_key_value.dtype, device=query_key_value.device
        )
        _text_kernel[(rows, heads)](
            query_key_value, self._text[layer, 0], self._text[layer, 1], self._state.position,
            self._done, out,
            self._scale, heads, size, self._text.shape[4], 32, num_warps=2,
        )  # fmt: skip
        return out

    def audio(self, layer: int, query: Tensor) -> Tensor:
        out = torch.empty_like(query)
        shape = self._audio
        state = self._state
        grid = (len(query), shape.heads)
        kept = self._queries.values
        tuning = self._tuning
        if shape.int8:
            _audio_int8_kernel[grid](
                query, self._anchors.values, state.audio_place, self._anchors.scales,
                state.scale_place, self._done,
                state.position, shape.kept_at, kept, out, layer, self._scale, shape.heads,
                shape.size,
                shape.positions, max(1, kept.shape[1]), kept.shape[2], tuning.int8_lanes, EMULATED,
                num_warps=tuning.int8_warps,
            )  # fmt: skip
        else:
            _audio_kernel[grid](
                query, self._anchors.values.view(query.dtype), state.audio_place, self._done,
                state.position,
                shape.kept_at, kept, out, layer, self._scale, shape.heads, shape.size,
                shape.positions,
                UNIT_BYTES // query.element_size(), max(1, kept.shape[1]), kept.shape[2],
                tuning.lanes,
                num_warps=tuning.warps,
            )  # fmt: skip
        return out


@dataclass(frozen=True, slots=True)
class AudioShape:
    """Layout of the model's ``AudioCache``.

    Attributes:
        kept_at: (layers, heads) int32, index in ``KeptQueries`` of the head; -1 if it is not kept.
    """

    heads: int
    size: int
    positions: int
    int8: bool
    kept_at: Tensor

    @classmethod
    def of(cls, model: Whisper, queries: KeptQueries, *, int8: bool) -> AudioShape:
        kept_at = torch.full((len(model.decoder_layers), model.heads), -1, dtype=torch.int32)
        for place, (layer, head) in enumerate(queries.heads):
            kept_at[layer, head] = place
        return cls(
            model.heads,
            model.head_size,
            model.geometry.max_source_positions,
            int8,
            kept_at.to(model.device),
        )
