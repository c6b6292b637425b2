"""Run other installed programs on the same recording with the same model, each in a child process.

Run as ``python -m transcribe_mcp.quality.bench.peers NAME REQUEST``; prints one JSON line. A peer's
threads, memory and crashes stay in that process.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ... import models
from ...domain.progress import Progress, no_progress
from ...engines import EngineInfo
from ...errors import TranscribeError
from ...media.decode import Samples
from ...models.conversion import ctranslate2_directory
from . import PeerTime

TIMEOUT_S = 1800.0
BATCH = 16


@dataclass(frozen=True, slots=True)
class PeerRequest:
    """The work of a peer.

    Attributes:
        model: the engine's name for it.
        device: ``cpu`` or ``cuda``.
        language: code.
        samples: path of a file in NumPy's format.
    """

    model: str
    device: str
    language: str
    samples: str


def _faster_whisper(request: PeerRequest, samples: Samples) -> Callable[[], int]:
    """The batched pipeline: CTranslate2 in int8 on a CPU, float16 on a GPU."""
    module = importlib.import_module("faster_whisper")
    quantization = "int8" if request.device == "cpu" else "source"
    directory = str(converted(request.model, quantization, no_progress))
    kind = "int8" if request.device == "cpu" else "float16"
    model = module.WhisperModel(directory, device=request.device, compute_type=kind)
    pipeline = module.BatchedInferencePipeline(model)

    def run() -> int:
        segments, _ = pipeline.transcribe(
            samples,
            language=request.language,
            beam_size=1,
            temperature=0.0,
            word_timestamps=True,
            batch_size=BATCH,
        )
        return sum(len(segment.words or ()) for segment in segments)

    return run


def _transformers(request: PeerRequest, samples: Samples) -> Callable[[], int]:
    """The speech recognition pipeline in chunks of 30 s, with word timestamps."""
    module = importlib.import_module("transformers")
    torch = importlib.import_module("torch")
    directory = str(models.resolve(request.model, offline=True, progress=no_progress).directory)
    kind = torch.float32 if request.device == "cpu" else torch.float16
    model = module.WhisperForConditionalGeneration.from_pretrained(directory, dtype=kind)
    pipeline = module.pipeline(
        "automatic-speech-recognition",
        model=model.to(request.device),
        tokenizer=module.WhisperTokenizerFast.from_pretrained(directory),
        feature_extractor=module.WhisperFeatureExtractor.from_pretrained(directory),
        chunk_length_s=30,
        batch_size=BATCH,
        device=request.device,
    )
    options = {"language": request.language, "task": "transcribe"}

    def run() -> int:
        found = pipeline(samples.copy(), return_timestamps="word", generate_kwargs=options)
        return len(found["chunks"])

    return run


PEERS = {
    "faster-whisper": ("faster_whisper", _faster_whisper),
    "transformers": ("transformers", _transformers),
}


def run_peers(info: EngineInfo, samples: Samples, language: str) -> Iterator[PeerTime]:
    """Time every installed peer in turn; a failure becomes its row in the table."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "samples.npy"
        np.save(path, samples)
        device = "cuda" if info.device.startswith("cuda") else "cpu"
        request = json.dumps(asdict(PeerRequest(info.model, device, language, str(path))))
        for name, (package, _) in PEERS.items():
            if importlib.util.find_spec(package) is not None:
                yield _in_child(name, request)


def _in_child(name: str, request: str) -> PeerTime:
    command = [sys.executable, "-m", __name__, name, request]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return PeerTime(name, None, f"not done after {TIMEOUT_S:.0f} s")
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()
        return PeerTime(
            name, None, f"exit {done.returncode}: {said[-1] if said else 'no output'}"[:120]
        )
    return PeerTime(name, float(json.loads(done.stdout.strip().splitlines()[-1])["seconds"]))


def converted(model: str, quantization: Any, progress: Progress) -> Path:
    """The engine's weights in the peers' format."""
    checkpoint = models.resolve(model, offline=True, progress=progress)
    return ctranslate2_directory(checkpoint, quantization, progress)


def main(name: str, text: str) -> None:
    request = PeerRequest(**json.loads(text))
    samples: Samples = np.load(request.samples)
    try:
        run = PEERS[name][1](request, samples)
    except TranscribeError as error:
        raise SystemExit(f"{error}") from error
    run()
    start = time.perf_counter()
    words = run()
    sys.stdout.write(
        "\n" + json.dumps({"seconds": time.perf_counter() - start, "words": words}) + "\n"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
