"""Transcribe recordings with a peer, in the Python of its environment; prints a line of JSON each.

    PYTHON peer_child.py NAME MODEL COMPUTE_TYPE LANGUAGE BEAM_SIZE RECORDING...

A standalone script: the environment may lack transcribe-mcp, so it imports only the peer.
``LANGUAGE`` is a code, or ``auto``. Lines that do not begin with ``{`` are the peer's output.
"""

from __future__ import annotations

import importlib
import json
import sys
import tempfile
import time
import wave
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

SAMPLE_RATE_HZ = 16_000
BATCH = 8

Run = Callable[[str], "dict[str, Any]"]


def faster_whisper(
    model: str, compute_type: str, language: str | None, beam_size: int, *, batched: bool = False
) -> Run:
    module = importlib.import_module("faster_whisper")
    loaded = module.WhisperModel(model, device="cpu", compute_type=compute_type)
    pipeline = module.BatchedInferencePipeline(loaded) if batched else loaded
    more: dict[str, Any] = {"batch_size": BATCH} if batched else {"vad_filter": True}

    def run(path: str) -> dict[str, Any]:
        found, info = pipeline.transcribe(
            path, language=language, beam_size=beam_size, word_timestamps=True, **more
        )
        rows = [
            {
                "text": s.text,
                "start": s.start,
                "end": s.end,
                "words": [[w.start, w.end, w.word] for w in s.words or ()],
            }
            for s in found
        ]
        return {"language": info.language, "duration": info.duration, "segments": rows}

    return run


def whisperx(model: str, compute_type: str, language: str | None, beam_size: int) -> Run:
    """Without alignment and speaker models, which only the model hub has; words have no times.

    Voice detection is the default, pyannote's, whose model is in the wheel.
    """
    module = importlib.import_module("whisperx")
    options = {"beam_size": beam_size}
    pipeline = module.load_model(
        model, "cpu", compute_type=compute_type, language=language, asr_options=options
    )

    def run(path: str) -> dict[str, Any]:
        audio = module.load_audio(path)
        found = pipeline.transcribe(audio, batch_size=BATCH, language=language)
        rows = [
            {"text": s["text"], "start": s["start"], "end": s["end"], "words": []}
            for s in found["segments"]
        ]
        return {
            "language": found["language"],
            "duration": len(audio) / SAMPLE_RATE_HZ,
            "segments": rows,
        }

    return run


def senko(model: str, *ignored: Any) -> Run:
    """Speakers only. It reads WAV files."""
    diarizer = importlib.import_module("senko").Diarizer(device="cpu", warmup=False, quiet=True)

    def run(path: str) -> dict[str, Any]:
        with wav_of(path) as (wav, duration_s):
            found = diarizer.diarize(wav, generate_colors=False) or {"merged_segments": []}
        turns = [[t["start"], t["end"], t["speaker"]] for t in found["merged_segments"]]
        return speakers_only(duration_s, turns)

    return run


def pyannote(model: str, *ignored: Any) -> Run:
    """Speakers only, with the gated model of the cache."""
    module = importlib.import_module("pyannote.audio")
    pipeline = module.Pipeline.from_pretrained("pyannote/speaker-diarization-community-1")

    def run(path: str) -> dict[str, Any]:
        torch = importlib.import_module("torch")
        with wav_of(path) as (wav, duration_s), wave.open(wav) as file:
            content = bytearray(file.readframes(file.getnframes()))
        samples = torch.frombuffer(content, dtype=torch.int16).float()[None] / 32768
        found = pipeline({"waveform": samples, "sample_rate": SAMPLE_RATE_HZ})
        annotation = getattr(found, "speaker_diarization", found)  # since pyannote.audio 4
        tracks = annotation.itertracks(yield_label=True)
        return speakers_only(duration_s, [[t.start, t.end, label] for t, _, label in tracks])

    return run


def speakers_only(duration_s: float, turns: list[list[Any]]) -> dict[str, Any]:
    return {"language": "", "duration": duration_s, "segments": [], "turns": turns}


@contextmanager
def wav_of(path: str) -> Iterator[tuple[str, float]]:
    """A temporary WAV file with a recording in mono at 16 kHz, and its length in seconds."""
    av = importlib.import_module("av")
    resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE_HZ)
    with av.open(path) as container:
        parts = [out for frame in container.decode(audio=0) for out in resampler.resample(frame)]
    parts += resampler.resample(None)
    content = b"".join(part.to_ndarray().tobytes() for part in parts)
    with tempfile.TemporaryDirectory() as folder:
        wav = str(Path(folder, "recording.wav"))
        with wave.open(wav, "wb") as file:
            file.setparams((1, 2, SAMPLE_RATE_HZ, 0, "NONE", ""))
            file.writeframes(content)
        yield wav, len(content) / 2 / SAMPLE_RATE_HZ


PEERS: dict[str, Callable[..., Run]] = {
    "faster-whisper": faster_whisper,
    "faster-whisper-batched": partial(faster_whisper, batched=True),
    "whisperx": whisperx,
    "senko": senko,
    "pyannote": pyannote,
}


def main(
    name: str, model: str, compute_type: str, language: str, beam_size: str, *recordings: str
) -> None:
    run = PEERS[name](model, compute_type, None if language == "auto" else language, int(beam_size))
    for path in recordings:
        begin = time.perf_counter()
        found = run(path) | {"seconds": time.perf_counter() - begin}
        sys.stdout.write("\n" + json.dumps(found, default=float) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
