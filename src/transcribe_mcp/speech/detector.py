"""Audio -> probability of speech per frame of 32 ms.

The network is Silero's (see `silero.py`). Its encoder does nearly all of the work and treats each
frame alone, so chunks of frames run on all cores at once. The LSTM needs the frames in order and
follows behind.

With up to five threads there is one LSTM lane, and the result equals one serial run. From six
threads on the LSTM would be the bottleneck. So a block is split into lanes, each warmed up on the
16 s before it. A few decisions in a thousand differ, because the network remembers more than a
minute.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import EngineUnavailableError
from ..settings import usable_cores
from .silero import (
    CONTEXT_SAMPLES,
    ENCODER,
    FRAME_S,
    FRAME_SAMPLES,
    PURPOSE,
    RECURRENT,
    STATE_SIZE,
    folded_windows,
    unreadable,
)

__all__ = ["FRAME_S", "FRAME_SAMPLES", "SpeechDetector"]

_CHUNK_FRAMES = 256  # 8.2 s; the encoder's intermediate results stay in the cache
_CHUNK_SAMPLES = _CHUNK_FRAMES * FRAME_SAMPLES
_WARM_UP_CHUNKS = 2
_MIN_LANE_CHUNKS = 8
_THREADS_PER_LANE = 3  # a frame takes the encoder about twice as long as the LSTM

Array = NDArray[np.float32]
State = tuple[Array, Array]  # h, c: (1, 1, 128) each


class SpeechDetector:
    """Speech probabilities of one recording at a time, pushed block by block from one thread.

    Frame k covers the samples [512 k, 512 k + 512) of the recording.

    Args:
        threads: number of threads; 0 uses all cores of this process.

    Raises:
        EngineUnavailableError: onnxruntime or a model file is missing or damaged.
    """

    def __init__(self, threads: int = 0) -> None:
        self._threads = threads or usable_cores()
        self._encoder = cpu_session(ENCODER, PURPOSE)
        self._recurrent = cpu_session(RECURRENT, PURPOSE)
        # The thread that calls push() is one of the threads.
        self._pool = ThreadPoolExecutor(self._threads - 1, "vad") if self._threads > 1 else None
        self.reset()

    def reset(self) -> None:
        """Start a new recording with the next push."""
        self._state: State = _zero_state()
        # The context, then the samples of the incomplete frame.
        self._tail = np.zeros(CONTEXT_SAMPLES, np.float32)

    def push(self, samples: Array, *, last: bool = False) -> Array:
        """Take the next samples (n,), 16 kHz mono; return the probabilities of the frames completed
        (n_frames,).

        Blocks may have any length; blocks of minutes use the cores best. ``last`` pads the final
        frame with zeros and resets the detector.
        """
        probabilities = self._push(np.ascontiguousarray(samples, np.float32))
        if last:
            missing = -(len(self._tail) - CONTEXT_SAMPLES) % FRAME_SAMPLES
            probabilities = np.concatenate(
                [probabilities, self._push(np.zeros(missing, np.float32))]
            )
            self.reset()
        return probabilities

    def _push(self, samples: Array) -> Array:
        tail = self._tail
        n_begun = len(tail) - CONTEXT_SAMPLES
        n_frames, n_left = divmod(n_begun + len(samples), FRAME_SAMPLES)
        self._tail = np.concatenate([tail, samples[-FRAME_SAMPLES - CONTEXT_SAMPLES :]])[
            -CONTEXT_SAMPLES - n_left :
        ]
        if n_frames == 0:
            return np.empty(0, np.float32)

        def samples_of(chunk: int) -> Array:
            """The samples of a chunk with the context before them; all but the first are views of
            the block.
            """
            stop = min((chunk + 1) * _CHUNK_SAMPLES, n_frames * FRAME_SAMPLES) - n_begun
            if chunk == 0:
                return np.concatenate([tail, samples[:stop]])
            return samples[chunk * _CHUNK_SAMPLES - n_begun - CONTEXT_SAMPLES : stop]

        chunks = _Chunks(
            lambda chunk: self._encode(samples_of(chunk)), -(-n_frames // _CHUNK_FRAMES)
        )
        return self._run_lanes(chunks)

    def _run_lanes(self, chunks: _Chunks) -> Array:
        n_lanes = max(
            1, min(self._threads // _THREADS_PER_LANE, chunks.n_chunks // _MIN_LANE_CHUNKS)
        )
        edges = [chunks.n_chunks * lane // n_lanes for lane in range(n_lanes + 1)]
        if self._pool is None:
            return self._run_first_lane(chunks, edges[1])
        # Lanes are submitted first: a lane encodes its next chunk itself if no worker has, so there
        # is not a deadlock.
        later = [
            self._pool.submit(self._run_lane, chunks, *edge)
            for edge in itertools.pairwise(edges[1:])
        ]
        chunks.submit(self._pool, edges)
        probabilities = [self._run_first_lane(chunks, edges[1])]
        for lane in later:
            of_lane, self._state = lane.result()
            probabilities.append(of_lane)
        return np.concatenate(probabilities)

    def _run_first_lane(self, chunks: _Chunks, stop: int) -> Array:
        probabilities, self._state = self._follow(chunks, range(stop), self._state)
        return probabilities

    def _run_lane(self, chunks: _Chunks, start: int, stop: int) -> tuple[Array, State]:
        _, state = self._follow(chunks, range(start - _WARM_UP_CHUNKS, start), _zero_state())
        return self._follow(chunks, range(start, stop), state)

    def _follow(self, chunks: _Chunks, which: range, state: State) -> tuple[Array, State]:
        """Run the LSTM over consecutive chunks; return the probabilities and the state after
        them.
        """
        h, c = state
        parts = []
        for chunk in which:
            features = chunks.features(chunk)[:, np.newaxis]
            probabilities, h, c = self._recurrent.run(None, {"features": features, "h": h, "c": c})
            parts.append(probabilities)
        return np.concatenate(parts), (h, c)

    def _encode(self, samples: Array) -> Array:
        even, odd = folded_windows(samples)
        (features,) = self._encoder.run(None, {"even": even, "odd": odd})
        return np.asarray(features)


class _Chunks:
    """Encoder outputs of the chunks of a block, computed ahead by a pool or on demand."""

    def __init__(self, encode: Callable[[int], Array], n_chunks: int) -> None:
        self.n_chunks = n_chunks
        self._encode = encode
        self._futures: dict[int, Future[Array]] = {}

    def submit(self, pool: ThreadPoolExecutor, edges: list[int]) -> None:
        """Queue all chunks: the first of every lane, then the second of every lane, and so on."""
        longest = max(stop - start for start, stop in itertools.pairwise(edges))
        for offset in range(longest):
            for start, stop in itertools.pairwise(edges):
                if start + offset < stop:
                    self._futures[start + offset] = pool.submit(self._encode, start + offset)

    def features(self, chunk: int) -> Array:
        """The encoder output of a chunk, (n_frames, 128).

        A chunk that no worker has started is computed here. While a worker computes it, this thread
        computes the next chunk that nobody has started.
        """
        future = self._futures.get(chunk)
        if future is None or future.cancel():
            return self._encode(chunk)
        for later in range(chunk + 1, self.n_chunks):
            if future.done():
                break
            waiting = self._futures.get(later)
            if waiting is not None and not waiting.cancelled() and waiting.cancel():
                done = Future[Array]()
                done.set_result(self._encode(later))
                self._futures[later] = done
        return future.result()


def cpu_session(graph: Path, purpose: str) -> Any:
    """A session of ONNX Runtime with one thread per call; several calls run at once instead.

    Sends no telemetry: from version 1.29 ONNX Runtime reports its sessions to Microsoft, unless
    this variable is set before the import.

    Raises:
        EngineUnavailableError: onnxruntime is missing, or the graph is missing or damaged.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError as error:
        raise EngineUnavailableError(
            f"cannot load onnxruntime for the {purpose} model: {error}",
            hint="pip install --force-reinstall onnxruntime",
        ) from error
    onnxruntime.disable_telemetry_events()  # Windows ignores the variable
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # fatal only; errors are raised
    try:
        return onnxruntime.InferenceSession(
            graph, sess_options=options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime raises nothing narrower
        raise unreadable(graph, purpose, error) from error


def _zero_state() -> State:
    return np.zeros((1, 1, STATE_SIZE), np.float32), np.zeros((1, 1, STATE_SIZE), np.float32)
