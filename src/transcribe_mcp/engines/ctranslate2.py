"""Whisper models on CTranslate2: int8 on CPUs, float16 on CUDA 12 GPUs. The only file that runs
ctranslate2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import ctranslate2
import numpy as np
from numpy.typing import NDArray

from .. import models
from ..align.times import time_words, token_starts
from ..align.words import split_words
from ..compat.device_choice import Hardware, choose, cpu_replicas, precisions
from ..compat.gpu_probe import gpu_facts, gpu_trial, operation_on, trial_key
from ..compat.machine import gpu_name, gpus_of
from ..compat.preload import preload_cublas
from ..domain.languages import AUTO
from ..domain.transcript import Notice, Word
from ..errors import EngineUnavailableError
from ..models import catalogue, conversion
from ..settings import settings, usable_cores
from ..speech.features import FRAMES_PER_SECOND, log_mel
from ..speech.library_errors import library_errors
from ..speech.regions import Window
from . import (
    RETRY_BEAM_SIZE,
    Decoded,
    DecodesInRounds,
    DecodingOptions,
    EngineInfo,
    EngineRequest,
    GpuModel,
    Recognizer,
    VoiceDetector,
)
from .auto import parsed_device, require_precision
from .model_shape import known_shape
from .tokenizer import CONTEXT_TOKENS, Vocabulary

SAMPLING_SEED = 0
# Decoders of tiny, base, turbo and the distilled models.
SMALL_DECODER_LAYERS = 6
SMALL_DECODER_BEAMS = 5


Result = TypeVar("Result")


def load(request: EngineRequest) -> Recognizer | GpuModel:
    """Load the requested model, after converting it if necessary. The CPU can replace a GPU that
    was not requested explicitly.
    """
    device, index, gpu_notices = _choose_device(request.device, request.gpu)
    supported = sorted(ctranslate2.get_supported_compute_types(device))
    require_precision(request.compute_type, supported, device, "ctranslate2")
    request = replace(request, notices=(*request.notices, *gpu_notices))
    if request.model == AUTO:
        choice = models.choose_model(catalogue.this_machine(device), offline=request.offline)
        notice = Notice("fallback_model" if choice.is_fallback else "model_chosen", choice.reason)
        request = replace(request, model=choice.name, notices=(*request.notices, notice))
    if device == "cpu" or request.device != AUTO:
        return _load_on(request, device, index)

    def load_on_cpu() -> Recognizer:
        supported = ctranslate2.get_supported_compute_types("cpu")
        kept = request.compute_type if request.compute_type in supported else AUTO
        return _load_on(replace(request, compute_type=kept), "cpu", 0)

    return GpuModel.load(lambda: _load_on(request, device, index), load_on_cpu)


def _load_on(request: EngineRequest, device: str, index: int) -> CTranslate2Engine:
    name = request.model
    checkpoint = models.resolve(name, offline=request.offline, progress=request.progress)
    models.require_usable(checkpoint)
    threads = request.threads or usable_cores()
    hardware = _hardware(device, index, threads)
    choice = choose(
        "ctranslate2", hardware, known_shape(checkpoint), _precision(request.compute_type, hardware)
    )
    directory = conversion.ctranslate2_directory(
        checkpoint,
        "int8" if choice.compute_type.startswith("int8") else "source",
        request.progress,
    )
    replicas = cpu_replicas(threads) if device == "cpu" else 1
    with _foreign_errors(f"loading model {name}"):
        model = ctranslate2.models.Whisper(
            str(directory),
            device,
            device_index=index,
            compute_type=choice.compute_type,
            inter_threads=replicas,
            intra_threads=max(1, threads // replicas),
        )
    vocabulary = Vocabulary(directory, multilingual=model.is_multilingual)
    info = EngineInfo(
        engine="ctranslate2",
        model=checkpoint.name,
        device="cpu"
        if device == "cpu"
        else request.device
        if ":" in request.device
        else gpu_name(index),
        compute_type=model.compute_type,
        languages=("en",) if checkpoint.english_only else vocabulary.languages,
        tasks=("transcribe",) if checkpoint.can_translate is False else ("transcribe", "translate"),
        batch_size=choice.batch_size,
        beam_size=_beam_size(checkpoint) if device == "cpu" else 1,
        can_sample=False,  # its threads' random generators cannot be reset
        retry_beam_size=RETRY_BEAM_SIZE,
        word_lag_s=models.word_lag_s(checkpoint),
        punctuates=models.has_openai_vocabulary(checkpoint),
        skips_speech=True,
        versions={"ctranslate2": ctranslate2.__version__},
        warnings=request.notices,
    )
    return CTranslate2Engine(model, vocabulary, info, replicas)


def _beam_size(checkpoint: models.Checkpoint) -> int:
    """Beam search avoids one in six word errors with tiny.en (docs/accuracy.md). With a small
    decoder it takes little time.
    """
    layers = models.n_decoder_layers(checkpoint)
    is_small = layers is not None and layers <= SMALL_DECODER_LAYERS
    return SMALL_DECODER_BEAMS if is_small and models.has_openai_vocabulary(checkpoint) else 1


def _hardware(device: str, index: int, threads: int) -> Hardware:
    """The device as the driver describes it, with its memory before the model is loaded."""
    if device == "cpu":
        return Hardware("cpu", threads=threads)
    gpu = next(iter(gpus_of(gpu_facts())[index:]), None)
    if gpu is None:
        return Hardware(gpu_name(index), threads=threads)
    return Hardware(gpu_name(index), gpu.name, gpu.capability, gpu.free_bytes, threads)


def _precision(requested: str, hardware: Hardware) -> str:
    """The best precision that this build of CTranslate2 also supports."""
    if requested != AUTO:
        return requested
    supported = ctranslate2.get_supported_compute_types(hardware.kind)
    return next(name for name in precisions("ctranslate2", hardware) if name in supported)


@dataclass(frozen=True, slots=True)
class EncodedFeatures:
    """Encoder outputs of some windows: (n, 1500, d_model), kept in main memory so that any subset
    can be taken.
    """

    windows: tuple[Window, ...]
    features: NDArray[Any]

    def __len__(self) -> int:
        return len(self.windows)

    def select(self, indices: Sequence[int]) -> EncodedFeatures:
        return EncodedFeatures(
            tuple(self.windows[i] for i in indices), self.features[list(indices)]
        )


class CTranslate2Engine(DecodesInRounds):
    """See the protocol. On a CPU several replicas share the weights and process parts of a batch in
    parallel.
    """

    def __init__(self, model: Any, vocabulary: Vocabulary, info: EngineInfo, replicas: int) -> None:
        self._model = model
        self._vocabulary = vocabulary
        self._replicas = replicas
        self._pool = ThreadPoolExecutor(replicas, thread_name_prefix="ctranslate2")
        self.info = info

    def notices(self, options: DecodingOptions) -> tuple[Notice, ...]:
        return self._vocabulary.notices(options)

    def encode(self, windows: Sequence[Window]) -> EncodedFeatures:
        """Window by window: on a CPU, the attention of one window fits the cache, that of a batch
        does not.
        """

        def encode_one(window: Window) -> NDArray[Any]:
            mel = log_mel(window.samples, self._model.n_mels)
            return np.array(self._model.encode(_storage(mel[None]), to_cpu=True))

        with _foreign_errors("encoding"):
            outputs = list(self._pool.map(encode_one, windows))
        return EncodedFeatures(
            tuple(windows), np.concatenate(outputs) if outputs else np.empty((0, 0, 0), np.float32)
        )

    def join(self, batches: Sequence[EncodedFeatures]) -> EncodedFeatures:
        windows = tuple(window for batch in batches for window in batch.windows)
        return EncodedFeatures(windows, np.concatenate([batch.features for batch in batches]))

    def detect_language(self, encoded: EncodedFeatures) -> list[dict[str, float]]:
        if not self._model.is_multilingual:
            return [{"en": 1.0} for _ in encoded.windows]
        with _foreign_errors("detecting the language"):
            rows = self._model.detect_language(_storage(encoded.features))
        return [{token.strip("<|>"): probability for token, probability in row} for row in rows]

    def decode_once(
        self, encoded: EncodedFeatures, languages: Sequence[str], options: DecodingOptions
    ) -> list[Decoded]:
        known = [self._vocabulary.known(window) for window in encoded.windows]
        prompts = [
            self._vocabulary.prompt(language, options, text)
            for language, text in zip(languages, known, strict=True)
        ]
        sampling = options.temperature > 0
        ctranslate2.set_random_seed(SAMPLING_SEED)

        def generate(part: range) -> list[Any]:
            result: list[Any] = self._model.generate(
                _storage(encoded.features[part.start : part.stop]),
                prompts[part.start : part.stop],
                beam_size=1 if sampling else options.beam_size,
                sampling_topk=0 if sampling else 1,
                sampling_temperature=options.temperature if sampling else 1.0,
                max_length=CONTEXT_TOKENS,
                return_scores=True,
                return_no_speech_prob=True,
            )
            return result

        with _foreign_errors("decoding"):
            results = self._in_parts(generate, len(encoded))
        return [
            self._decoded(result, language, options.temperature, len(text))
            for result, language, text in zip(results, languages, known, strict=True)
        ]

    def align(
        self, encoded: EncodedFeatures, decoded: Sequence[Decoded], options: DecodingOptions
    ) -> list[list[Word]]:
        """Window by window, each only over its own frames, because the path search takes time
        proportional to tokens times frames.
        """

        def align_one(i: int) -> list[Word]:
            window = encoded.windows[i]
            text = decoded[i]
            if not text.tokens:
                return []
            frames = min(3000, max(2, round(window.duration * FRAMES_PER_SECOND)))
            start = self._vocabulary.start_sequence(text.language, options.task)
            features = _storage(encoded.features[i : i + 1])
            known = self._vocabulary.known(window)
            tokens = [*known, *text.tokens]
            result = self._model.align(features, start, [tokens], frames)[0]
            starts = token_starts(result.alignments, len(tokens) + 1)
            before, spans = (
                split_words(part, self._vocabulary.decode, text.language)
                for part in (known, text.tokens)
            )
            spans = [*before, *(span.shifted(len(known)) for span in spans)]
            words = time_words(spans, starts, result.text_token_probs, window.start)
            return words[len(before) :]

        with _foreign_errors("timing words"):
            return list(self._pool.map(align_one, range(len(encoded))))

    def voice_detector(self) -> VoiceDetector | None:
        return None

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._model.unload_model()

    def _in_parts(self, work: Callable[[range], list[Result]], n: int) -> list[Result]:
        """``work`` on equal parts of ``range(n)``, one per replica, results in order."""
        size = -(-n // self._replicas) or 1
        parts = [range(first, min(first + size, n)) for first in range(0, n, size)]
        return [result for results in self._pool.map(work, parts) for result in results]

    def _decoded(self, result: Any, language: str, temperature: float, n_known: int) -> Decoded:
        # CTranslate2 returns known text too, which has no part in the score. It divides the score
        # by all tokens without the end of text, whose probability is in it.
        n = len(result.sequences_ids[0])
        new = result.sequences_ids[0][n_known:]
        tokens = tuple(token for token in new if self._vocabulary.is_text(token))
        return Decoded(
            text=self._vocabulary.decode(tokens),
            language=language,
            temperature=temperature,
            tokens=tokens,
            avg_logprob=result.scores[0] * n / (len(new) + 1),
            no_speech_prob=result.no_speech_prob,
        )


def _storage(array: NDArray[Any]) -> Any:
    return ctranslate2.StorageView.from_array(np.ascontiguousarray(array))


def _choose_device(requested: str, gpu: int) -> tuple[str, int, tuple[Notice, ...]]:
    """``cpu``, ``cuda``, ``cuda:N`` or ``auto`` -> device, index, why a GPU is unused."""
    device, index = parsed_device(requested, gpu)
    if device == "cpu":
        return "cpu", 0, ()
    count = ctranslate2.get_cuda_device_count()
    problem = preload_cublas().problem if count else "CTranslate2 finds no usable CUDA device"
    if not problem and index >= count:
        name = gpu_name(index) if device == AUTO else requested
        problem = f"there is no device {name}, CTranslate2 finds {count}"
    if device == "cuda":
        if problem:
            raise EngineUnavailableError(
                problem, hint="transcribe on the CPU with --device cpu; see transcribe-mcp doctor"
            )
        return "cuda", index, ()
    if not problem:
        key = trial_key(gpu_facts(), ctranslate2.__version__, index)
        problem = gpu_trial(settings().cache_dir, key, operation_on("ctranslate2", index))
    if problem:
        return "cpu", 0, (Notice("gpu_unused", f"the GPU is not used: {problem}"),) if count else ()
    return "cuda", index, ()


def _foreign_errors(doing: str) -> AbstractContextManager[None]:
    return library_errors(
        lambda: (RuntimeError, ValueError, MemoryError),
        f"ctranslate2 failed while {doing}",
        "use a smaller model, or --device cpu",
    )
