"""The protocol of speech models, the table of engines, and how one is loaded.

An engine only decodes batches of windows and aligns their words. Voice detection, language votes,
quality rules, sentences, formats and progress belong to the pipeline and are the same for every
engine. ``runtime`` runs the models.

A model on a GPU can also detect speech there; see ``Recognizer.voice_detector``. The pipeline then
gives it every block of audio, and the windows come to ``encode`` with ``device_samples`` set to
their samples on the device.

A model that runs out of memory raises ``OutOfMemoryError`` and stays usable; ``runtime.device``
then halves the batch.

To add one: a module with ``load(request) -> Recognizer | GpuModel``, and a line in ``ENGINES``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from ..domain.languages import AUTO
from ..domain.options import EngineSpec, part_of
from ..domain.progress import Progress, no_progress
from ..domain.transcript import Notice, Word
from ..errors import (
    EngineFailedError,
    EngineUnavailableError,
    ModelUnavailableError,
    UnknownNameError,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..speech.regions import Window

RETRY_BEAM_SIZE = 5  # openai-whisper's default
PACKAGES_ENGINE = "ctranslate2"  # reads the models that come as packages


@dataclass(frozen=True, slots=True)
class EngineEntry:
    """One row of the table: the engine's module, a summary, and the extra that installs it."""

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
        notices: what the choice of this engine already cost; the engine hands them on in its
            ``info``.
        n_devices: number of devices that share the windows of every recording. Each device has its
            own request.
    """

    progress: Progress = no_progress
    notices: tuple[Notice, ...] = ()
    n_devices: int = 1


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
    concurrent_align: bool = (
        False  # align() can run beside the encoding and decoding of other windows
    )
    encode_chunk: int = (
        0  # windows that encode() takes best at once, to be joined; 0: whole batches only
    )
    concurrent_encode: bool = False  # that can run beside decode(); close() interrupts it
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
        timestamps: let the model say timestamps between its words, where the engine can; they are
            not in the text.
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


class EncodedBatch(Protocol):
    """Windows in the memory of a device; opaque to everyone but its model. The last reference frees
    the memory.
    """

    def __len__(self) -> int: ...

    def select(self, indices: Sequence[int]) -> EncodedBatch:
        """The same memory, only the windows at ``indices``, in that order."""


# Gets the row of a window and its text. Returns the temperature of the next attempt, or None to
# accept the text. After a failure it is called again for the same window.
RetryPolicy = Callable[[int, Decoded], "float | None"]


def accept(row: int, decoded: Decoded) -> float | None:
    """The policy of one attempt."""
    return None


class Aligner(Protocol):
    """Finds when the words of a text were said."""

    def align(
        self, encoded: Any, decoded: Sequence[Decoded], options: DecodingOptions
    ) -> list[list[Word]]:
        """Word timestamps on the original clock, monotonic, one for every word of each text."""


class Recognizer(Aligner, Protocol):
    """A speech model on one device.

    Methods take and return one item per window, in order. Foreign errors leave as
    ``EngineFailedError``.
    """

    @property
    def info(self) -> EngineInfo: ...

    def notices(self, options: DecodingOptions) -> tuple[Notice, ...]:
        """What of the options this model cannot honour in full."""

    def encode(self, windows: Sequence[Window]) -> EncodedBatch: ...

    def join(self, batches: Sequence[Any]) -> EncodedBatch:
        """One batch of several, which are not used afterwards."""

    def detect_language(self, encoded: Any) -> list[dict[str, float]]:
        """Probability by language code, most probable first."""

    def decode(
        self,
        encoded: Any,
        languages: Sequence[str],
        options: DecodingOptions,
        retry: RetryPolicy = accept,
    ) -> list[Decoded]:
        """Transcribe each window in its language, as often as ``retry`` asks for it. Returns the
        last attempts.
        """

    def voice_detector(self) -> VoiceDetector | None:
        """A detector for one recording on this device. ``None``: use the one on the CPU."""

    def close(self) -> None:
        """Free all memory. The model is not used afterwards."""


class DecodesInRounds(ABC):
    """A base of models that cannot put a window back into a running batch.

    Windows to decode again wait until the others are done.
    """

    @abstractmethod
    def decode_once(
        self, encoded: Any, languages: Sequence[str], options: DecodingOptions
    ) -> list[Decoded]:
        """Decode every window once, at the temperature of ``options``."""

    def decode(
        self,
        encoded: Any,
        languages: Sequence[str],
        options: DecodingOptions,
        retry: RetryPolicy = accept,
    ) -> list[Decoded]:
        """See ``Recognizer``."""
        found: dict[int, Decoded] = {}
        waiting = {options.temperature: list(range(len(languages)))}
        while waiting:
            temperature = min(waiting)
            rows = waiting.pop(temperature)
            part = encoded if len(rows) == len(languages) else encoded.select(rows)
            decoded = self.decode_once(
                part, [languages[row] for row in rows], options.at(temperature)
            )
            for row, one in zip(rows, decoded, strict=True):
                found[row] = replace(one, temperature=temperature)
                next_temperature = retry(row, found[row])
                if next_temperature is not None:
                    waiting.setdefault(next_temperature, []).append(row)
        return [found[row] for row in range(len(languages))]


class VoiceDetector(Protocol):
    """Finds speech in one recording, from its beginning, on the device of a model. Used from one
    thread.
    """

    @property
    def block_s(self) -> float:
        """Seconds of audio that it works on best."""

    def push(self, samples: NDArray[np.float32], *, last: bool = False) -> NDArray[np.float32]:
        """The next (n,) samples -> speech probability of each completed 32 ms frame."""

    def place(self, windows: Sequence[Window], keep_from: float) -> Sequence[Window]:
        """The windows with ``device_samples`` set. No later window begins before ``keep_from`` (s,
        original clock).
        """

    def close(self) -> None:
        """Free all memory, that of placed windows included. It is not used afterwards."""


@dataclass(frozen=True, slots=True)
class GpuModel:
    """A model on a GPU that the user did not ask for by name: when the GPU fails, the CPU takes
    over.

    Attributes:
        loaded: the model on the GPU, or the error that it could not be loaded for.
        load_on_cpu: loads the same model on the CPU.
    """

    loaded: Recognizer | EngineFailedError
    load_on_cpu: Callable[[], Recognizer]

    @classmethod
    def load(
        cls, load: Callable[[], Recognizer], load_on_cpu: Callable[[], Recognizer]
    ) -> GpuModel:
        try:
            return cls(load(), load_on_cpu)
        except EngineFailedError as error:  # a new one: this one refers to all that was loaded
            return cls(type(error)(str(error), hint=error.hint), load_on_cpu)


def load_recognizers(
    spec: EngineSpec, progress: Progress = no_progress
) -> list[Recognizer | GpuModel]:
    """Load one model per device. ``auto`` falls back to a model that a package holds.

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
    requests = [replace(request, device=each, n_devices=len(devices)) for each in devices]
    name = request.engine
    if name == AUTO:
        name = auto_engine(request.model, request.device, request.compute_type, request.gpu)
    try:
        return [_load(name, each) for each in requests]
    except ModelUnavailableError:
        if request.engine != AUTO or request.model != AUTO or name == PACKAGES_ENGINE:
            raise
        return [_load(PACKAGES_ENGINE, each) for each in requests]


def find_engine(name: str) -> EngineEntry:
    """
    Raises:
        UnknownNameError: no such engine; the hint names the nearest.
    """
    if name in ENGINES:
        return ENGINES[name]
    raise UnknownNameError.unknown(
        f"there is no engine {name!r}", name, engine_names(), "choose one of"
    )


def engine_names() -> tuple[str, ...]:
    """The names that users can choose, ``auto`` first."""
    return (AUTO, *(name for name, entry in ENGINES.items() if not entry.hidden))


def load_recognizer(request: EngineRequest) -> Recognizer:
    """The bare model on the first device: no CPU takes over, and a batch too large for memory
    fails.
    """
    loaded = load_recognizers(request)[0]
    if not isinstance(loaded, GpuModel):
        return loaded
    if isinstance(loaded.loaded, EngineFailedError):
        raise loaded.loaded
    return loaded.loaded


def _load(name: str, request: EngineRequest) -> Recognizer | GpuModel:
    entry = find_engine(name)
    try:
        module = import_module(entry.module, __name__)
    except ImportError as error:
        raise EngineUnavailableError(
            f"engine {name} cannot be imported: {error}",
            hint=(
                f"pip install 'transcribe-mcp[{entry.extra}]'"
                if entry.extra
                else "reinstall transcribe-mcp"
            ),
        ) from error
    loaded: Recognizer | GpuModel = module.load(replace(request, engine=name))
    return loaded
