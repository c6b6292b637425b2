"""What an engine is, which there are, and how one is chosen.

An engine only decodes batches of windows and times their words. Voice detection, language votes, quality rules,
sentence cutting, formats and progress are the pipeline's and the same for every engine.

An engine on a GPU may also listen there: it then has a method ``listener() -> Listener | None`` besides those of
``Engine``. The pipeline hands every block of audio to the listener instead of to its own voice detection on the CPU,
and its windows come to ``encode`` with ``device_samples`` set to their samples on the device, so that the audio goes
there once. ``None`` (and no such method) means: listen on the CPU. ``silero_gpu.Ears(device).listen()`` is such a
listener, and ``features_torch.log_mel_windows`` makes the spectrograms of placed and other windows alike.

An engine that runs out of memory raises ``OutOfMemoryError`` and stays usable; ``replicas`` then halves the batch.

To add one: a module with ``load(request) -> Engine``, and a line in ``ENGINES``.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, cast

from ..domain.languages import AUTO
from ..domain.options import EngineSpec, part_of
from ..domain.progress import Progress, no_progress
from ..domain.transcript import Notice, Word
from ..errors import EngineUnavailableError, ModelUnavailableError, UnknownNameError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..speech.regions import Window

RETRY_BEAM_SIZE = 5  # openai-whisper's default
PACKAGES_ENGINE = "ctranslate2"  # reads the models that come as packages


@dataclass(frozen=True, slots=True)
class EngineEntry:
    """One row of the table: where the engine lives, what it is, and the extra that installs it."""

    module: str
    summary: str
    extra: str | None = None
    hidden: bool = False  # not offered to users: for tests and demonstrations


ENGINES: Mapping[str, EngineEntry] = {
    "ctranslate2": EngineEntry(
        ".ctranslate2", "Whisper models on the CPU (int8) and on CUDA 12 GPUs"
    ),
    "whisper": EngineEntry(
        ".whisper", "Whisper models in PyTorch, on CUDA GPUs and CPUs", extra="torch"
    ),
    "fake": EngineEntry(".fake", "deterministic words for tests of front ends", hidden=True),
}


@dataclass(frozen=True)
class EngineRequest(EngineSpec):
    """What a module's ``load`` is given: the spec, and what loading it has to say.

    Attributes:
        progress: receives downloads and conversions.
        notices: what the choice of this engine already cost; the engine hands them on in its ``info``.
    """

    progress: Progress = no_progress
    notices: tuple[Notice, ...] = ()


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What was loaded, in the words that go into every result."""

    engine: str
    model: str
    device: str
    compute_type: str
    languages: tuple[str, ...]  # codes that it can transcribe; detection chooses among them
    tasks: tuple[str, ...] = ("transcribe",)
    batch_size: int = 8  # windows that it decodes best at once on this machine
    most_windows: int = (
        0  # that fit into memory at once, after it did not suffice for more; until then 0
    )
    aligns_aside: bool = (
        False  # align() may run in another thread while the next batch is encoded and decoded
    )
    early_windows: int = (
        0  # encode() may be given so many of a batch that is not full, as they come, to be joined
    )
    encodes_aside: bool = (
        False  # and that in another thread while earlier ones are decoded; close() breaks it off
    )
    beam_size: int = 1  # hypotheses with which this model is best here for its time
    can_sample: bool = (
        True  # decodes differently at another temperature, and alike each time at the same
    )
    retry_beam_size: int = (
        1  # hypotheses with which doubtful windows are decoded again; 1: they are not
    )
    word_lag_s: float = 0.0  # by how much its words start too late
    punctuates: bool = (
        False  # was trained on text with punctuation, and takes a prompt's style over
    )
    skips_speech: bool = (
        False  # may leave out words in the midst of a window; then it is decoded again in pieces
    )
    versions: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[Notice, ...] = ()


@dataclass(frozen=True, slots=True)
class DecodingOptions:
    """How a batch of windows is decoded, the same for every window of the batch.

    Attributes:
        task: ``transcribe`` or ``translate`` (to English).
        beam_size: hypotheses kept; 1 is greedy. Ignored where ``temperature`` > 0.
        temperature: 0 takes the most probable token; above, tokens are sampled.
        prompt: text that the decoder takes as having been said before, for style and spelling.
        vocabulary: words and names to expect.
        timestamps: let the model say timestamps between its words, where the engine can; they are not in the text.
    """

    task: str = "transcribe"
    beam_size: int = 1
    temperature: float = 0.0
    prompt: str = ""
    vocabulary: tuple[str, ...] = ()
    timestamps: bool = False

    def at(self, temperature: float) -> DecodingOptions:
        return replace(self, temperature=temperature)


@dataclass(frozen=True, slots=True)
class Decoded:
    """What an engine heard in one window. ``None`` where the engine does not measure it.

    Attributes:
        tokens: text tokens without specials; empty for engines that have none.
        avg_logprob: mean natural-log probability per token, end of text included.
        no_speech_prob: the model's own probability that the window holds no speech.
        words: set by engines that time words while decoding, on the original clock.
    """

    text: str
    language: str
    temperature: float
    tokens: tuple[int, ...] = ()
    avg_logprob: float | None = None
    no_speech_prob: float | None = None
    words: tuple[Word, ...] | None = None


class Encoded(Protocol):
    """A batch of windows as its engine sees them; opaque to everybody else."""

    def __len__(self) -> int: ...

    def select(self, indices: Sequence[int]) -> Encoded:
        """The same windows, only those at ``indices``, in that order."""


class Joinable(Encoded, Protocol):
    """What an engine makes that encodes early."""

    def joined(self, others: Sequence[Any]) -> Encoded:
        """These windows, then those of the others."""


class Engine(Protocol):
    """Methods take and return one item per window, in order. Foreign errors leave as ``EngineFailedError``."""

    @property
    def info(self) -> EngineInfo: ...

    def notices(self, options: DecodingOptions) -> tuple[Notice, ...]:
        """What of the options this engine cannot honour in full."""

    def encode(self, windows: Sequence[Window]) -> Encoded: ...

    def detect_language(self, encoded: Any) -> list[dict[str, float]]:
        """Probability by language code, most probable first."""

    def decode(
        self, encoded: Any, languages: Sequence[str], options: DecodingOptions
    ) -> list[Decoded]:
        """Transcribe each window in its language."""

    def align(
        self, encoded: Any, decoded: Sequence[Decoded], options: DecodingOptions
    ) -> list[list[Word]]:
        """Word times on the original clock, monotonic, one entry for every word of each text."""

    def close(self) -> None:
        """Give back all memory; the engine is not used afterwards."""


class Listener(Protocol):
    """Hears one recording from its beginning, on the device of its engine. Used from one thread.

    It works beside the engine: its errors and memory are the engine's, and so is the order ``EngineFailedError``.
    """

    @property
    def block_s(self) -> float:
        """Seconds of audio that it likes to be pushed at once."""

    def push(self, samples: NDArray[np.float32], *, last: bool = False) -> NDArray[np.float32]:
        """The next (n,) samples -> speech probabilities of the 32 ms frames completed (n_frames,)."""

    def place(self, windows: Sequence[Window], keep_from: float) -> Sequence[Window]:
        """Set ``device_samples`` of the windows. No later window begins before ``keep_from`` (s, original clock)."""

    def close(self) -> None:
        """Give back all memory, that of windows placed before included; it is not used afterwards."""


# Told a window and what was heard in it; returns the temperature to decode it at again, or None. May be told twice
# where a device failed in between.
Following = Callable[[int, Decoded], float | None]


def decode_until(
    engine: Engine,
    encoded: Any,
    languages: Sequence[str],
    options: DecodingOptions,
    following: Following,
) -> None:
    """Decode every window, at temperature after temperature as ``following`` says.

    An engine that can put single windows back into a running batch has a method of this name; with others, the windows
    that are to be decoded again wait until all are through. Beams are not put back.
    """
    own = getattr(engine, "decode_until", None)
    if own is not None and options.beam_size == 1:
        own(encoded, languages, options, following)
        return
    waiting = {options.temperature: list(range(len(encoded)))}
    while waiting:
        temperature = min(waiting)
        places = waiting.pop(temperature)
        batch = encoded if len(places) == len(encoded) else encoded.select(places)
        decoded = engine.decode(batch, [languages[i] for i in places], options.at(temperature))
        for i, one in zip(places, decoded, strict=True):
            hotter = following(i, replace(one, temperature=temperature))
            if hotter is not None:
                waiting.setdefault(hotter, []).append(i)


def joined(parts: Sequence[Encoded]) -> Encoded:
    """The windows of all parts as one batch. Several parts: of an engine that encodes early."""
    first, *others = parts
    return cast(Joinable, first).joined(others) if others else first


def listener_of(engine: Engine) -> Listener | None:
    """A new listener of an engine that listens by itself, otherwise ``None``."""
    listen: Callable[[], Listener | None] | None = getattr(engine, "listener", None)
    return listen() if listen is not None else None


def load_engine(spec: EngineSpec, progress: Progress = no_progress) -> Engine:
    """Load an engine. Where ``auto`` finds no model for its engine, it takes one that a package holds.

    Several devices give one engine that shares every batch out among them.

    Raises:
        UnknownNameError: no such engine.
        EngineUnavailableError: its package or the hardware it was asked for is missing.
        ModelError: the model cannot be had or used.
    """
    from .auto import auto_engine, devices_of

    request = (
        spec
        if isinstance(spec, EngineRequest)
        else EngineRequest(**vars(part_of(EngineSpec, spec)), progress=progress)
    )
    devices = devices_of(request.device)
    name = request.engine
    if name == AUTO:
        name = auto_engine(request.model, request.device, request.compute_type, request.gpu)
    try:
        engines = [_load(name, replace(request, device=device)) for device in devices]
    except ModelUnavailableError:
        if request.engine != AUTO or request.model != AUTO or name == PACKAGES_ENGINE:
            raise
        engines = [_load(PACKAGES_ENGINE, replace(request, device=device)) for device in devices]
    if len(engines) == 1:
        return engines[0]
    shared: Engine = import_module(".replicas", __name__).Replicas(engines)
    return shared


def find_engine(name: str) -> EngineEntry:
    """
    Raises:
        UnknownNameError: no such engine; the hint names the nearest.
    """
    if name in ENGINES:
        return ENGINES[name]
    offered = engine_names()
    near = difflib.get_close_matches(name.lower(), offered, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}? " if near else ""
    raise UnknownNameError(
        f"there is no engine {name!r}", hint=f"{hint}choose one of: {', '.join(offered)}"
    )


def engine_names() -> tuple[str, ...]:
    """The names that users can choose, ``auto`` first."""
    return (AUTO, *(name for name, entry in ENGINES.items() if not entry.hidden))


def _load(name: str, request: EngineRequest) -> Engine:
    entry = find_engine(name)
    try:
        module = import_module(entry.module, __name__)
    except ImportError as error:
        hint = (
            f"pip install 'transcribe-mcp[{entry.extra}]'"
            if entry.extra
            else "reinstall transcribe-mcp"
        )
        raise EngineUnavailableError(
            f"engine {name} cannot be imported: {error}", hint=hint
        ) from error
    engine: Engine = module.load(replace(request, engine=name))
    return engine
