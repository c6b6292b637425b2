"""The memory that a Whisper model needs, by engine, precision, batch and beam.

Counted from the model's dimensions: weights, cross-attention and self-attention caches, the peak
activations of the encoder, and a fixed part per engine. ``benchmarks/memory_model.py`` measures the
same on a GPU and compares.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from .facts import Facts
from .machine import Gpu, gpus_of, usable_memory_bytes
from .tables import table

AUDIO_POSITIONS = 1500  # 30 s at 20 ms
MEL_FRAMES = 3000
TEXT_POSITIONS = 448
KERNEL_WIDTH = 3
PROMPT_TOKENS = 4  # start, language, task, no timestamps
BATCHES = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128)
SPEAKERS_BYTES = 260_000_000  # both networks and their workspace on two threads, measured
WEIGHT_BYTES: Mapping[str, int] = {
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "int8": 1,
    "int8_float16": 1,
    "int8_float32": 1,
}
ACTIVATION_BYTES: Mapping[str, int] = {
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "int8": 4,
    "int8_float16": 2,
    "int8_float32": 4,
}
MEBIBYTE = 1 << 20
# Share of the memory that a plan may fill; drivers and other processes need the rest.
USABLE_SHARE = 0.9


@dataclass(frozen=True, slots=True)
class Geometry:
    """Dimensions of a Whisper model; 1500 audio and 448 text positions are the same for all."""

    model: str
    n_mels: int
    n_state: int
    n_head: int
    encoder_layers: int
    decoder_layers: int
    n_vocab: int

    @property
    def encoder_parameters(self) -> int:
        d = self.n_state
        convolutions = KERNEL_WIDTH * d * (self.n_mels + d) + 2 * d
        return convolutions + self.encoder_layers * (12 * d * d + 12 * d) + 2 * d

    @property
    def decoder_parameters(self) -> int:
        """The embedding is shared with the output layer, so it counts once."""
        d = self.n_state
        return (
            d * (self.n_vocab + TEXT_POSITIONS)
            + self.decoder_layers * (16 * d * d + 17 * d)
            + 2 * d
        )

    @property
    def parameters(self) -> int:
        """All trained numbers; the encoder's positions are computed, not trained."""
        return self.encoder_parameters + self.decoder_parameters

    @property
    def matrices(self) -> Iterator[tuple[int, int]]:
        """Sizes of the large tensors as CTranslate2 stores them, with q, k and v in one; and the
        number of tensors of each size.
        """
        d = self.n_state
        for size in (d * self.n_vocab, KERNEL_WIDTH * d * self.n_mels, KERNEL_WIDTH * d * d):
            yield size, 1
        layers = self.encoder_layers + self.decoder_layers
        yield 3 * d * d, layers
        yield 4 * d * d, 2 * layers
        yield d * d, self.encoder_layers + 3 * self.decoder_layers
        yield 2 * d * d, self.decoder_layers

    @property
    def encoder_flops(self) -> float:
        """Floating-point operations for one 30 s window, with cross-attention keys and values."""
        d = self.n_state
        positions = AUDIO_POSITIONS
        layer = 24 * d * d * positions + 4 * positions * positions * d
        convolutions = 2 * KERNEL_WIDTH * (MEL_FRAMES * self.n_mels * d + positions * d * d)
        return float(
            self.encoder_layers * layer + convolutions + self.decoder_layers * 4 * d * d * positions
        )

    def decoding_bytes(
        self, batch: int, tokens: int, item_bytes: int, audio_item_bytes: int
    ) -> float:
        """Bytes read to decode ``tokens`` tokens of each of ``batch`` windows.

        Each step reads the decoder's weights (except those for cross-attention keys and values),
        the cross-attention cache and the self-attention cache so far.
        """
        steps = tokens + PROMPT_TOKENS
        weights = (self.decoder_parameters - self.decoder_layers * 2 * self.n_state**2) * item_bytes
        audio = self.decoder_layers * 2 * self.n_state * AUDIO_POSITIONS * audio_item_bytes
        text = self.decoder_layers * 2 * self.n_state * steps / 2 * item_bytes
        return steps * (weights + batch * (audio + text))

    def weights_bytes(self, item_bytes: int, page_bytes: int = 0) -> int:
        """Bytes of the weights. With ``page_bytes`` tensors above half a page take whole pages."""
        unused = self.unused_bytes(item_bytes, page_bytes, page_bytes // 2) if page_bytes else 0
        return self.parameters * item_bytes + unused

    def unused_bytes(self, item_bytes: int, page_bytes: int, above_bytes: int) -> int:
        """Unused bytes if tensors above a size take whole pages."""
        return sum(
            count * (-size * item_bytes % page_bytes)
            for size, count in self.matrices
            if size * item_bytes > above_bytes
        )


@dataclass(frozen=True, slots=True)
class Overhead:
    """Memory of an engine beyond the counted parts.

    Attributes:
        fixed_bytes: driver context, libraries, workspaces.
        encoder_units: tensors of (batch, 1500, n_state) alive at the encoder's widest point.
        score_copies: copies of the (batch, heads, 1500, 1500) scores; 0 for fused attention.
        int8_score_copies: the same with 8-bit weights, if different.
        decoder_units: tensors of that shape alive during decoding.
        text_positions: length of the self-attention cache; CTranslate2 stops at half of 448.
        page_bytes: allocation unit of large tensors.
    """

    fixed_bytes: int
    encoder_units: float
    score_copies: float
    int8_score_copies: float | None = None
    decoder_units: float = 1
    text_positions: int = TEXT_POSITIONS
    page_bytes: int = 0


# Tensor counts and fixed parts are fitted to the table memory_measured.
# torch: torch.cuda.max_memory_allocated, without the driver's context; x, y, q, k, v of the last
# layer stay alive.
# ctranslate2: GPU memory of the process, with the driver's context. CUDA gives large tensors whole
# 2 MiB pages, which int8's smaller tensors fill worse. With int8 the allocator keeps one or two
# copies of the scores (tiny, batch 16: 1,299 MB in two runs, 1,735 MB in three); 1.37 covers both.
# With one copy, large batches take up to 15 % less than predicted; on an H100 all sizes but medium
# and large-v3 did so in later runs.
# cpu: resident memory.
OVERHEADS: Mapping[str, Overhead] = {
    "torch": Overhead(fixed_bytes=32 * MEBIBYTE, encoder_units=10, score_copies=0, decoder_units=5),
    "ctranslate2": Overhead(
        fixed_bytes=650 * MEBIBYTE,
        encoder_units=9,
        score_copies=1,
        int8_score_copies=1.37,
        decoder_units=6,
        text_positions=224,
        page_bytes=2 * MEBIBYTE,
    ),
    "cpu": Overhead(fixed_bytes=75 * MEBIBYTE, encoder_units=7, score_copies=1, text_positions=224),
}


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """Bytes by part. Encoding ends before decoding, so the larger of the two counts."""

    weights_bytes: int
    encoding_bytes: int
    audio_cache_bytes: int
    text_cache_bytes: int
    decoding_bytes: int
    fixed_bytes: int

    @property
    def total_bytes(self) -> int:
        decoding = self.audio_cache_bytes + self.text_cache_bytes + self.decoding_bytes
        return self.weights_bytes + max(self.encoding_bytes, decoding) + self.fixed_bytes


@lru_cache(maxsize=1)
def geometries() -> tuple[Geometry, ...]:
    return tuple(Geometry(**row) for row in table("models").rows)


def geometry(model: str) -> Geometry:
    """Raises ``KeyError`` for a model that the table lacks."""
    found = next((each for each in geometries() if each.model == model), None)
    if found is None:
        raise KeyError(model)
    return found


def memory_need(shape: Geometry, engine: str, dtype: str, batch: int, beam: int = 1) -> MemoryNeed:
    """Peak memory of encoding and decoding ``batch`` windows of 30 s.

    Args:
        engine: ``whisper`` (our own), or a key of ``OVERHEADS``.
        dtype: a key of ``WEIGHT_BYTES``; with ``+int8`` the cross-attention cache has 8 bits.
        beam: hypotheses per window.
    """
    if engine == WHISPER:
        return _whisper_need(shape, dtype, batch, beam)
    extra = OVERHEADS[engine]
    item = ACTIVATION_BYTES[dtype]
    per_layer = 2 * batch * shape.n_state * item
    unit = batch * AUDIO_POSITIONS * shape.n_state * item
    scores = batch * shape.n_head * AUDIO_POSITIONS**2 * item
    copies = extra.score_copies
    if dtype.startswith("int8") and extra.int8_score_copies is not None:
        copies = extra.int8_score_copies
    encoder = int(extra.encoder_units * unit + copies * scores)
    logits = (
        batch * beam * shape.n_vocab * (item + 4)
    )  # once in the model's precision, once as float32
    computed_positions = AUDIO_POSITIONS * shape.n_state * WEIGHT_BYTES["float32"]
    return MemoryNeed(
        shape.weights_bytes(WEIGHT_BYTES[dtype], extra.page_bytes) + computed_positions,
        encoder,
        shape.decoder_layers * per_layer * AUDIO_POSITIONS,
        shape.decoder_layers * per_layer * beam * extra.text_positions,
        int(extra.decoder_units * unit) + logits,
        extra.fixed_bytes,
    )


# The engine ``whisper`` on CUDA; ``benchmarks/gpu.py`` on H100, torch 2.11, bfloat16+int8.
WHISPER = "whisper"
# windows per encoder pass, rounded up; larger batches take several passes
ENCODER_ROOMS = (1, 4, 8, 12)
_ROOMS = (1, 4, 16, 64, 128, 256)  # rows of the decoder's workspace, rounded up
_TEXT_POSITIONS = 256  # a long prompt uses all 448
# Three cuBLAS workspaces: for the model, captured steps, and word timestamps.
_FIXED_BYTES = 104_500_000
_ROW_BYTES = 200_000  # per row: alignment queries and tokens
# Encoder workspace per window.
_ENCODER_UNITS = 9.4
_ENCODER_WINDOW_BYTES = 2_300_000
_SPECTROGRAM_BYTES = 15_700_000  # temporary, per spectrogram
_CACHE_UNITS = 1.5  # temporary, while the cross-attention cache is built
# PyTorch allocates whole pages for tensors above this size.
_LARGE_BYTES = 10 * MEBIBYTE
_LARGE_PAGE_BYTES = 2 * MEBIBYTE


def _whisper_need(shape: Geometry, dtype: str, batch: int, beam: int) -> MemoryNeed:
    """Memory of the engine ``whisper``, which encodes a batch in parts.

    Peak of encoding: the encoder's workspace, the cross-attention cache of the parts encoded so
    far, and the self-attention cache of the previous batch. Decoding and alignment follow.
    """
    kind, _, audio_kind = dtype.partition("+")
    item = WEIGHT_BYTES[kind]
    audio_item = WEIGHT_BYTES[audio_kind or kind]
    rows = next((room for room in _ROOMS if room >= batch * beam), batch * beam)
    unit = AUDIO_POSITIONS * shape.n_state * item
    per_window = shape.decoder_layers * 2 * AUDIO_POSITIONS * shape.n_state * audio_item
    text = rows * (shape.decoder_layers * 2 * shape.n_state * item * _TEXT_POSITIONS + _ROW_BYTES)
    room = next((room for room in ENCODER_ROOMS if room >= batch), ENCODER_ROOMS[-1])
    part = min(batch, room)
    mel = MEL_FRAMES * shape.n_mels * WEIGHT_BYTES["float32"]
    encoding = text + (batch - part) * per_window
    encoding += part * max(_SPECTROGRAM_BYTES, mel + per_window + int(_CACHE_UNITS * unit))
    captured = room * (
        int(_ENCODER_UNITS * unit) + _ENCODER_WINDOW_BYTES + unit + mel
    )  # the last two are its ends
    word_times = min(12_000_000 * batch, 85_000_000) + 1_000_000 * batch
    unused = shape.unused_bytes(item, _LARGE_PAGE_BYTES, _LARGE_BYTES)
    return MemoryNeed(
        weights_bytes=shape.weights_bytes(item) + unused,
        encoding_bytes=encoding,
        audio_cache_bytes=batch * per_window,
        text_cache_bytes=text,
        decoding_bytes=rows * shape.n_vocab * 4 + word_times,
        fixed_bytes=_FIXED_BYTES + captured,
    )


def largest_batch(
    shape: Geometry, engine: str, dtype: str, available_bytes: int, beam: int = 1
) -> int:
    """The largest of ``BATCHES`` that fits; 0 if not even one window fits."""
    limit = available_bytes * USABLE_SHARE
    fitting = [
        batch
        for batch in BATCHES
        if memory_need(shape, engine, dtype, batch, beam).total_bytes <= limit
    ]
    return max(fitting, default=0)


@dataclass(frozen=True, slots=True)
class ModelFit:
    """One line of ``doctor --models``: device, precision and batch size of a model."""

    model: str
    where: str
    dtype: str
    batch: int
    need_bytes: int  # at that batch; at batch 1 if it does not fit
    available_bytes: int


def model_fits(facts: Facts) -> Iterator[ModelFit]:
    """Every model on every GPU in float16 and int8, and on the CPU in int8."""
    places: list[tuple[str, str, int, tuple[str, ...]]] = [
        (gpu.name, "ctranslate2", gpu_bytes(gpu), ("float16", "int8_float16"))
        for gpu in gpus_of(facts)
    ]
    memory = usable_memory_bytes(facts)
    if memory:
        places.append(
            ("CPU", "cpu", min(memory, facts.value("memory.available_bytes", memory)), ("int8",))
        )
    for where, engine, available_bytes, dtypes in places:
        for shape in geometries():
            for dtype in dtypes:
                batch = largest_batch(shape, engine, dtype, available_bytes)
                need = memory_need(shape, engine, dtype, max(batch, 1)).total_bytes
                yield ModelFit(shape.model, where, dtype, batch, need, available_bytes)


def gpu_bytes(gpu: Gpu) -> int:
    return gpu.total_bytes if gpu.free_bytes is None else gpu.free_bytes


def models_too_large(engine: str, dtype: str, available_bytes: int) -> list[str]:
    """Models that do not fit into this memory even with one window."""
    return [
        shape.model
        for shape in geometries()
        if not largest_batch(shape, engine, dtype, available_bytes)
    ]


def models_text(fits: Sequence[ModelFit]) -> str:
    """The table of ``doctor --models``."""
    lines = [f"{'model':<18}{'on':<26}{'precision':<14}{'batch':>6}{'needs GB':>10}{'has GB':>9}"]
    for fit in fits:
        batch = str(fit.batch) if fit.batch else "–"
        numbers = f"{batch:>6}{fit.need_bytes / 1e9:>10.1f}{fit.available_bytes / 1e9:>9.1f}"
        lines.append(f"{fit.model:<18}{fit.where[:25]:<26}{fit.dtype:<14}{numbers}")
    lines.append(
        "batch: 30 s windows per batch at beam size 1; – does not fit. Needs are computed, see "
        "benchmarks/memory_model.py"
    )
    lines.append(f"speakers need {SPEAKERS_BYTES / 1e9:.1f} GB more on the CPU")
    return "\n".join(lines)
