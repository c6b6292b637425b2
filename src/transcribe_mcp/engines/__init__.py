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
PACKAGES_ENGINE = "ctranslate2"  # supports models in packages


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
    """The argument of a module's ``load``: the spec, and how to report progress.

    Attributes:
        progress: receives downloads and conversions.
        notices: about the choice of this engine; the engine passes them on in its ``info``.
        n_devices: number of devices that share the windows of every recording. Each device has its
            own request.
    """

    progress: Progress = no_progress
    notices: tuple[Notice, ...] = ()
    n_devices: int = 1


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """Description of a loaded model, part of every result."""

    engine: str
    model: str
    device: str
    compute_type: str
    languages: tuple[str, ...]  # supported codes; detection chooses among them
    tasks: tuple[str, ...] = ("transcribe",)
    batch_size: int = 8  # windows per batch with the best throughput on this machine
    concurrent_align: bool = (
        False  # align() can run beside the encoding and decoding of other windows
    )
    encode_chunk: int = (
        0  # best number of windows per encode() call; calls are joined. 0: whole batches only
    )
    concurrent_encode: bool = False  # that can run beside decode(); close() interrupts it
    beam_size: int = 1  # best beam size for this model on this device, considering time
    can_sample: bool = (
        True  # temperatures give different texts, and the same temperature always the same
    )
    retry_beam_size: int = 1  # beam size for retries of doubtful windows; 1: no such retries
    word_lag_s: float = 0.0  # delay of its word starts
    punctuates: bool = False  # trained on punctuated text; follows the style of a prompt
    skips_speech: bool = (
        False  # may skip words inside a window, which is then decoded again in pieces
    )
    versions: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[Notice, ...] = ()


@dataclass(frozen=True, slots=True)
class DecodingOptions:
    """How a batch of windows is decoded, the same for every window of the batch.

    Attributes:
        task: ``transcribe`` or ``translate`` (to English).
        beam_size: hypotheses kept; 1 is greedy. Ignored if ``temperature`` > 0.
        temperature: 0 takes the most probable token; above, tokens are sampled.
        prompt: preceding text for the decoder, for style and spelling.
        vocabulary: words and names to expect.
        timestamps: decode timestamp tokens, if the engine can; they are not in the text.
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
    """The result of one window. ``None``: not measured by the engine.

    Attributes:
        tokens: text tokens without specials; empty for engines without tokens.
        avg_logprob: mean natural-log probability per token, end of text included.
        no_speech_prob: the model's probability that the window has no speech.
        words: set by engines that align words while decoding, on the original clock.
    """

    text: str
    language: str
    temperature: float
    tokens: tuple[int, ...] = ()
    avg_logprob: float | None = None
    no_speech_prob: float | None = None
    words: tuple[Word, ...] | None = None


class EncodedBatch(Protocol):
    """Encoded windows in a device's memory; only the model uses their content. Freed with the last
    reference.
    """

    def __len__(self) -> int: ...

    def select(self, indices: Sequence[int]) -> EncodedBatch:
        """A view with only the windows at ``indices``, in that order."""


# Gets the row of a window and its text. Returns the temperature of the next attempt, or None to
# accept the text. After a failure it is called again for the same window.
RetryPolicy = Callable[[int, Decoded], "float | None"]


def accept(row: int, decoded: Decoded) -> float | None:
    """The policy of one attempt."""
    return None


class Aligner(Protocol):
    """Finds the times of words."""

    def align(
        self, encoded: Any, decoded: Sequence[Decoded], options: DecodingOptions
    ) -> list[list[Word]]:
        """Monotonic word timestamps on the original clock, for every word of each text."""


class Recognizer(Aligner, Protocol):
    """A speech model on one device.

    Methods take and return one item per window, in order. They raise library errors as
    ``EngineFailedError``.
    """

    @property
    def info(self) -> EngineInfo: ...

    def notices(self, options: DecodingOptions) -> tuple[Notice, ...]:
        """Notices about options that this model does not fully support."""

    def encode(self, windows: Sequence[Window]) -> EncodedBatch: ...

    def join(self, batches: Sequence[Any]) -> EncodedBatch:
        """Join batches into one; the originals are not used afterwards."""

    def detect_language(self, encoded: Any) -> list[dict[str, float]]:
        """Probability by language code, most probable first."""

    def decode(
        self,
        encoded: Any,
        languages: Sequence[str],
        options: DecodingOptions,
        retry: RetryPolicy = accept,
    ) -> list[Decoded]:
        """Transcribe each window in its language, and again as long as ``retry`` requests it.
        Returns the last attempts, without the known beginnings of the windows.
        """

    def voice_detector(self) -> VoiceDetector | None:
        """A detector for one recording on this device. ``None``: use the one on the CPU."""

    def close(self) -> None:
        """Free all memory. The model is not used afterwards."""


class DecodesInRounds(ABC):
    """Base class of models that cannot return a window to a running batch.

    Retries wait until the other windows are done.
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
    """Detects speech in one recording, from its beginning, on a model's device. Used from one
    thread.
    """

    @property
    def block_s(self) -> float:
        """The best block length in seconds of audio."""

    def push(self, samples: NDArray[np.float32], *, last: bool = False) -> NDArray[np.float32]:
        """The next (n,) samples -> speech probability of each completed 32 ms frame."""

    def place(self, windows: Sequence[Window], keep_from: float) -> Sequence[Window]:
        """The windows with ``device_samples`` set. No later window begins before ``keep_from`` (s,
        original clock).
        """

    def close(self) -> None:
        """Free all memory, including that of ``device_samples``. Not used afterwards."""


@dataclass(frozen=True, slots=True)
class GpuModel:
    """A model on a GPU that the user did not request explicitly: if the GPU fails, the CPU takes
    over.

    Attributes:
        loaded: the model on the GPU, or the error of loading it.
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
        except EngineFailedError as error:  # a copy, because this one refers to everything loaded
            return cls(type(error)(str(error), hint=error.hint), load_on_cpu)


def load_recognizers(
    spec: EngineSpec, progress: Progress = no_progress
) -> list[Recognizer | GpuModel]:
    """Load one model per device. ``auto`` falls back to a model in a package.

    Raises:
        UnknownNameError: no such engine.
        EngineUnavailableError: its package or the requested hardware is missing.
        ModelError: the model is unavailable or unusable.
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
