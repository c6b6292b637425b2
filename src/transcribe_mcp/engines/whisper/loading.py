"""A request -> an engine: chooses device, precision and operations."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from ... import models
from ...compat.device_choice import INT8_AUDIO, Hardware, choose, precisions
from ...compat.machine import gpu_name
from ...compat.memory import ENCODER_ROOMS, WHISPER
from ...domain.languages import AUTO
from ...domain.transcript import Notice
from ...errors import EngineFailedError, EngineUnavailableError
from ...models import Checkpoint, catalogue
from ...models.tensors import Geometry
from ...settings import usable_cores
from ...speech.library_errors import library_errors
from ...speech.silero_gpu import has_triton, launch_errors
from .. import RETRY_BEAM_SIZE, EngineInfo, EngineRequest, GpuModel, Recognizer
from ..auto import parsed_device, require_precision
from ..model_shape import shape_of
from . import alignment, gpu_start
from .caches import AudioCache, audio_cache
from .checkpoint import Placement, generation_config, geometry_of, load_model, vocabulary_of
from .continuous_batching import EagerSteps, on
from .cpu_operations import (
    ENCODER_LINEAR,
    convolution_dtype,
    encoder_attention,
    encoder_precision,
    has_bfloat16_products,
)
from .engine import DeviceBackend, WhisperEngine
from .linear import Dense, FusedDense, Int8Dense, Linear, has_int8_products
from .model import Operations, Whisper, encode
from .quantized_states import AudioStates, audio_states

Kept = TypeVar("Kept")  # the decoder's audio input
VOCABULARY_MULTIPLE = 128  # cuBLAS needs twice the time for an odd number of outputs
PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_INT8_WITH_ENCODER = {"int8": "int8", "bfloat16": "bfloat16" + INT8_AUDIO}
CPU_ROOM = (1, 2, 4, 8, 16)
CUDA_ROOM = (1, 4, 16, 64, 128, 256)
CORES_PER_WORKER = 4  # maximum useful threads of a decoding step
ENCODED_AT_ONCE_CUDA = ENCODER_ROOMS[
    -1
]  # enough for an H100; more windows take longer per window and more memory
EARLY_WINDOWS_CPU = 8  # at most the smallest batch


def load(request: EngineRequest) -> Recognizer | GpuModel:
    """Load the requested model. The CPU can replace a GPU that was not requested explicitly."""
    device, notices = _choose_device(request.device, request.gpu)
    try:
        with _foreign_errors(request.model, device):
            _require_precision(request.compute_type, device)  # refused before a model is downloaded
    except EngineFailedError:
        if request.device != AUTO:
            raise  # otherwise raised again below, where the CPU can take over
    request = replace(request, notices=(*request.notices, *notices))
    if request.model == AUTO:
        machine = catalogue.this_machine(device.type)
        choice = models.choose_model(machine, offline=request.offline, packages=False)
        chosen = Notice("model_chosen", choice.reason)
        request = replace(request, model=choice.name, notices=(*request.notices, chosen))
    if device.type == "cpu":
        return _load_on(request, device)
    if request.device != AUTO:
        return _load_on(request, device)

    def load_on_cpu() -> Recognizer:
        kept = (
            request.compute_type
            if request.compute_type in precisions(WHISPER, _hardware(torch.device("cpu")))
            else AUTO
        )
        return _load_on(replace(request, compute_type=kept), torch.device("cpu"))

    return GpuModel.load(lambda: _load_on(request, device), load_on_cpu)


def _load_on(request: EngineRequest, device: torch.device) -> WhisperEngine:
    with _foreign_errors(request.model, device):
        _require_precision(request.compute_type, device)
        if device.type == "cuda":
            gpu_start.begin()
            gpu_start.use_expandable_segments(device, alone=request.n_devices == 1)
        hardware = _hardware(device)
    checkpoint = models.resolve(
        request.model, offline=request.offline, progress=request.progress, packages=False
    )
    geometry = geometry_of(checkpoint)
    models.require_usable(checkpoint)
    compute_type = request.compute_type
    if compute_type == AUTO and precisions(WHISPER, hardware)[0] == "int8":
        compute_type = _INT8_WITH_ENCODER[encoder_precision(geometry, _threads_each(request))]
    choice = choose(WHISPER, hardware, shape_of(geometry, checkpoint.name), compute_type)
    compute_type = choice.compute_type
    vocabulary = vocabulary_of(checkpoint)
    directions = generation_config(checkpoint, geometry)
    with _foreign_errors(request.model, device), on(device):
        machinery = _machinery(checkpoint, device, compute_type, request)
    # A worker that has finished its part continues with the next batch. In 8 bits several batches
    # fit into memory.
    shares_workers = device.type == "cpu" and _in_int8(compute_type) and machinery.workers > 1
    in_queue = device.type == "cuda"  # encode() returns when its work is launched
    notices = (*request.notices, *machinery.notices)
    if not directions.names_heads:
        message = (
            f"{checkpoint.name} names no alignment heads; word timestamps use the upper half of "
            "the decoder layers"
        )
        notices = (*notices, Notice("no_alignment_heads", message))
    info = EngineInfo(
        engine="whisper",
        model=checkpoint.name,
        device=_device_name(request.device, device),
        compute_type=compute_type,
        languages=("en",) if checkpoint.english_only else vocabulary.languages,
        tasks=("transcribe",) if checkpoint.can_translate is False else ("transcribe", "translate"),
        batch_size=choice.batch_size,
        retry_beam_size=1
        if in_queue
        else RETRY_BEAM_SIZE,  # on a GPU sampling in the running batch is much cheaper
        word_lag_s=models.word_lag_s(checkpoint),
        punctuates=models.has_openai_vocabulary(checkpoint),
        skips_speech=True,
        encode_chunk=machinery.encoded_at_once
        if in_queue
        else EARLY_WINDOWS_CPU
        if shares_workers
        else 0,
        concurrent_encode=shares_workers,
        concurrent_align=in_queue or shares_workers,
        versions={"torch": torch.__version__},
        warnings=notices,
    )
    return WhisperEngine(machinery, vocabulary, directions, info)


def _machinery(
    checkpoint: Checkpoint, device: torch.device, compute_type: str, request: EngineRequest
) -> DeviceBackend:
    if device.type == "cpu":
        return _cpu(checkpoint, compute_type, request)
    return _cuda(checkpoint, device, compute_type, request)


def _cpu(checkpoint: Checkpoint, compute_type: str, request: EngineRequest) -> DeviceBackend:
    make_cache: Callable[[Whisper, Tensor], AudioCache | AudioStates]
    if _in_int8(compute_type):
        model = _int8_model(checkpoint, compute_type, request)
        make_cache = audio_states
    else:
        dense = _dense(PRECISIONS[compute_type])
        placement = Placement(
            torch.device("cpu"), PRECISIONS[compute_type], dense, dense, dense, Operations()
        )
        model = load_model(checkpoint, placement)
        make_cache = partial(audio_cache, int8=False)
    return DeviceBackend(
        model,
        _encoder(model, make_cache),
        EagerSteps,
        alignment.TORCH,
        encoded_at_once=1,
        most_rows=CPU_ROOM[-1],
        room=CPU_ROOM,
        workers=_workers(request),
        threads_each=_threads_each(request),
    )


def _workers(request: EngineRequest) -> int:
    threads = request.threads or usable_cores()
    return max(1, threads // CORES_PER_WORKER, min(2, threads))


def _threads_each(request: EngineRequest) -> int:
    return max(1, (request.threads or usable_cores()) // _workers(request))


def _int8_model(checkpoint: Checkpoint, compute_type: str, request: EngineRequest) -> Whisper:
    """The decoder in 8 bits, the encoder's layers in the compute type, and its other operations in
    the fastest precision.
    """
    geometry = geometry_of(checkpoint)
    threads = _threads_each(request)
    encoder = ENCODER_LINEAR[compute_type.removesuffix(INT8_AUDIO)]
    placement = Placement(
        torch.device("cpu"), torch.float32, encoder, Int8Dense, _dense(torch.float32), Operations()
    )
    model = load_model(checkpoint, placement)
    output = Int8Dense(model.output, model.output.new_zeros(len(model.output)))
    attention = encoder_attention(geometry, threads)
    dtype = convolution_dtype(geometry, threads)
    (weight1, bias1), (weight2, bias2) = model.convolutions
    return replace(
        model,
        convolutions=((weight1.to(dtype), bias1.to(dtype)), (weight2.to(dtype), bias2.to(dtype))),
        operations=Operations(attention=attention, scores=lambda states, _: output(states)),
    )


def _cuda(
    checkpoint: Checkpoint, device: torch.device, compute_type: str, request: EngineRequest
) -> DeviceBackend:
    dtype = PRECISIONS[compute_type.removesuffix(INT8_AUDIO)]
    int8 = compute_type.endswith(INT8_AUDIO)
    make = _dense(dtype, Dense if dtype == torch.float32 else FusedDense)
    geometry = geometry_of(checkpoint)
    problem = _kernels_problem(geometry, dtype, device)
    if problem:
        model = load_model(checkpoint, Placement(device, dtype, make, make, make, Operations()))
        return DeviceBackend(
            model,
            _encoder(model, partial(audio_cache, int8=int8)),
            EagerSteps,
            alignment.TORCH,
            ENCODED_AT_ONCE_CUDA,
            CUDA_ROOM[-1],
            CUDA_ROOM,
            notices=(Notice("kernels_unused", f"decoding is slower than possible: {problem}"),),
        )
    from . import alignment_kernels, kernels
    from .gemv_kernels import SingleRowDense
    from .graphs import CapturedEncoder, CapturedSteps
    from .operations import cuda_operations

    operations = cuda_operations(geometry, dtype, device)
    make_decoder = make if dtype == torch.float32 else _dense(dtype, SingleRowDense)
    placement = Placement(device, dtype, make, make_decoder, make, operations, VOCABULARY_MULTIPLE)
    model = load_model(checkpoint, placement)
    make_cache = kernels.audio_cache if int8 else partial(audio_cache, int8=False)
    encoder = CapturedEncoder(model, make_cache, ENCODER_ROOMS)
    make_steps = partial(CapturedSteps, int8=int8)
    words = alignment.Search(alignment_kernels.smoothed, alignment_kernels.path_starts)
    return DeviceBackend(
        model,
        encoder,
        make_steps,
        words,
        ENCODED_AT_ONCE_CUDA,
        CUDA_ROOM[-1],
        CUDA_ROOM,
        give_back=encoder.give_back,
    )


def _kernels_problem(geometry: Geometry, dtype: torch.dtype, device: torch.device) -> str:
    """Why our own kernels cannot be launched; empty if they can. PyTorch's always can, but slower
    and without graphs.
    """
    if not has_triton():
        return "PyTorch was installed without Triton"
    from .kernels import problem

    found = problem(geometry.d_model, dtype, device)
    return (
        found
        and "Triton needs a C compiler and Python's headers (gcc, python3-dev) to launch kernels: "
        f"{found}"
    )


def _encoder(
    model: Whisper, make_cache: Callable[[Whisper, Tensor], Kept]
) -> Callable[[Tensor], Kept]:
    return lambda mel: make_cache(model, encode(model, mel))


def _foreign_errors(model: str, device: torch.device) -> AbstractContextManager[None]:
    return library_errors(
        launch_errors,
        f"torch failed while loading model {model}",
        "use a smaller model, or --device cpu",
        f"model {model} does not fit on {device}",
    )


def _dense(
    dtype: torch.dtype | None, kind: type[Dense] = Dense
) -> Callable[[Tensor, Tensor], Linear]:
    return lambda weight, bias: kind(weight.to(dtype), bias.to(dtype))


def _choose_device(requested: str, gpu: int) -> tuple[torch.device, tuple[Notice, ...]]:
    """``cpu``, ``cuda``, ``cuda:N`` or ``auto`` -> the device, and why a GPU is not used."""
    name, index = parsed_device(requested, gpu)
    if name == "cpu" or (name == AUTO and not torch.cuda.is_available()):
        return torch.device("cpu"), ()
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if index >= count:
        reason = (
            "is a build without CUDA"
            if torch.version.cuda is None
            else f"finds {count} CUDA devices"
        )
        if name == AUTO:
            notice = Notice(
                "gpu_unused", f"the GPU is not used: there is no {gpu_name(index)}, torch {reason}"
            )
            return torch.device("cpu"), (notice,)
        message = f"device {requested} is not available: torch {torch.__version__} {reason}"
        raise EngineUnavailableError(
            message, hint="transcribe on the CPU with --device cpu; see transcribe-mcp doctor"
        )
    return torch.device("cuda", index), ()


def _device_name(requested: str, device: torch.device) -> str:
    """The requested name, or the name in results."""
    return (
        "cpu" if device.type == "cpu" else requested if ":" in requested else gpu_name(device.index)
    )


def _in_int8(compute_type: str) -> bool:
    return compute_type.endswith("int8")


def _hardware(device: torch.device) -> Hardware:
    """The device as torch describes it, with its memory before the model is loaded."""
    if device.type == "cpu":
        fast = {"int8": has_int8_products(), "bfloat16": has_bfloat16_products()}
        return Hardware("cpu", products=frozenset(name for name in fast if fast[name]))
    major, minor = torch.cuda.get_device_capability(device)
    free_bytes, _ = torch.cuda.mem_get_info(device)
    return Hardware(gpu_name(device.index), "", f"{major}.{minor}", free_bytes)


def _require_precision(requested: str, device: torch.device) -> None:
    require_precision(requested, precisions(WHISPER, _hardware(device)), device.type, "whisper")
