"""The two networks on the CPU, with ONNX Runtime.

`tools/build_speakers.py` builds their files and names their sources. A session uses one thread per
call; several calls run at once instead.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..settings import usable_cores
from ..speech.detector import cpu_session
from ..speech.silero import unreadable

WEIGHTS = Path(__file__).with_name("weights")
PURPOSE = "speaker"  # for messages
SHA256 = {
    "segmentation.onnx": "27bd48129afbbbd4b5e8694654c6b7ae333f7a1914e6b88e32814bf4960806b8",
    "segmentation.safetensors": "8a8828ee219500aefb02948eac070c105a09ec4c383fccf9876f8a3219b913b3",
    "campplus.onnx": "9a9cd8bd6da9b00469edcccf39724eb7ff2d7925dd957a04ca6358c42f76bd4d",
    "campplus.safetensors": "26d881bb02bf741072f932abf3b5c88c888a80062bbcaedc784a8c4d60cee0eb",
}

Array = NDArray[np.float32]


class CpuNetworks:
    """Segmentation and embeddings on the CPU.

    Args:
        threads: number of threads; 0 uses all cores of this process.

    Raises:
        EngineUnavailableError: onnxruntime or a model file is missing or damaged.
    """

    segmentation_batch = 4
    embedding_batch = 4

    def __init__(self, threads: int = 0) -> None:
        self._segmentation = _session("segmentation")
        self._campplus = _session("campplus")
        self._pool = ThreadPoolExecutor(threads or usable_cores(), "speakers")

    def close(self) -> None:
        self._pool.shutdown()

    def segment(self, samples: Array) -> Array:
        """Scores of the 7 sets of speakers for windows (n, 160,000): (n, 589, 7) float32."""
        inputs = {"samples": samples[:, None]}
        return self._run(self._segmentation, inputs, self.segmentation_batch)

    def embed(self, features: Array) -> Array:
        """Embeddings of windows of normalized features (n, 148, 80): (n, 192) float32."""
        return self._run(self._campplus, {"features": features}, self.embedding_batch)

    def _run(self, session: Any, inputs: dict[str, Array], size: int) -> Array:
        ((name, rows),) = inputs.items()

        def run(start: int) -> Array:
            (output,) = session.run(None, {name: rows[start : start + size]})
            return np.asarray(output)

        return np.concatenate(list(self._pool.map(run, range(0, len(rows), size))))


def checked(files: Sequence[str]) -> list[Path]:
    """The paths of weight files.

    Raises:
        EngineUnavailableError: one is missing or damaged.
    """
    paths = [WEIGHTS / file for file in files]
    for path in paths:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise unreadable(path, PURPOSE, error) from error
        if hashlib.sha256(content).hexdigest() != SHA256[path.name]:
            raise unreadable(path, PURPOSE, "its checksum is wrong")
    return paths


def _session(name: str) -> Any:
    graph, _ = checked([f"{name}.onnx", f"{name}.safetensors"])
    return cpu_session(graph, PURPOSE)
