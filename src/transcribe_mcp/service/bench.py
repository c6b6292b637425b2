"""Speed of this machine, as a table for people and figures for programs."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from ..domain.options import EngineSpec, Options
from ..domain.progress import Progress, no_progress
from ..errors import UsageError
from .evaluating import Evaluation
from .transcribing import engine_of

ENGLISH = Options(language="en")
MAX_MINUTES = 240.0  # decoded in memory, 3.8 MB per minute


@dataclass(frozen=True, slots=True)
class BenchRequest:
    """What to measure.

    Attributes:
        audio: the recording; ``None``: the packaged voice.
        minutes: length of the audio; a shorter recording is repeated.
        runs: number of runs; the median is reported.
        peers: also run other installed programs.
        options: the recording's language, and how to decode it; temperature is 0.
    """

    audio: Path | None = None
    minutes: float = 5.0
    runs: int = 3
    peers: bool = False
    options: Options = ENGLISH
    spec: EngineSpec = field(default_factory=EngineSpec)


def bench(request: BenchRequest, progress: Progress = no_progress) -> Evaluation:
    """Measure an engine and a model on this machine.

    Raises:
        UsageError: minutes or runs out of range.
        SourceError: the recording cannot be used.
        ModelError, EngineError: the engine cannot be loaded, or failed.
    """
    if not 0 < request.minutes <= MAX_MINUTES:
        raise UsageError(
            f"--minutes is {request.minutes:g}",
            hint=f"give more than 0 and at most {MAX_MINUTES:g}",
        )
    if request.runs < 1:
        raise UsageError(f"--runs is {request.runs}", hint="give 1 or more")
    from ..quality.bench import measure, recording

    samples = recording(request.audio, request.minutes)
    options = replace(request.options, temperatures=(0.0,), threads=request.spec.threads)
    engine = engine_of(request.spec, progress)
    try:
        found = measure(engine, samples, options, request.runs, progress)
    finally:
        engine.close()  # the peers get exclusive use of the device
    if request.peers:
        from ..quality.bench.peers import run_peers

        peers = run_peers(found.info, samples, request.options.language)
        found = replace(found, peers=tuple(peers))
    return Evaluation(found.table(), found.to_json())
