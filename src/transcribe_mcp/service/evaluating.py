"""Judge an engine and a model on recordings with known text."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..domain.options import EngineSpec, Options
from ..domain.progress import Progress, no_progress
from .transcribing import engine_of


@dataclass(frozen=True, slots=True)
class EvaluateRequest:
    """The engine and model to evaluate on recordings with known text.

    ``compare``: other programs to evaluate too, see ``bench.compared``.
    """

    directory: Path
    spec: EngineSpec = field(default_factory=EngineSpec)
    options: Options = field(default_factory=Options)
    compare: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The result: a table for people, and figures for programs."""

    table: str
    figures: dict[str, Any]


def evaluate(request: EvaluateRequest, progress: Progress = no_progress) -> Evaluation:
    """Transcribe every recording of a directory and score it, see ``evaluation.load_truth``.

    Raises:
        SourceError: a recording or a truth file cannot be used.
        EngineError: the engine, or a program to compare with, is missing or failed.
    """
    from ..pipeline.offline import transcribe as run_pipeline
    from ..quality.bench.compared import DIARIZERS, peer_transcripts, require_peers
    from ..quality.evaluation import load_truth, score, score_turns, total
    from ..quality.evaluation_table import systems_table, table

    options = replace(request.options, threads=request.spec.threads)
    require_peers(request.compare)
    truths = load_truth(request.directory)
    engine = engine_of(request.spec, progress)
    begin = time.perf_counter()
    try:
        scores = []
        for number, truth in enumerate(truths):
            progress("file", number, len(truths))
            file_options = replace(options, diarize=bool(truth.turns) or options.diarize)
            scores.append(score(truth, run_pipeline(truth.path, engine, file_options, progress)))
        info = engine.info
    finally:
        engine.close()
    systems = [("transcribe-mcp", total(scores), time.perf_counter() - begin)]
    for name in request.compare:
        paths = [truth.path for truth in truths]
        found = peer_transcripts(name, info, options.language, paths, progress)
        judge = score_turns if name in DIARIZERS else score
        judged = [
            (judge(truth, one.transcript), one.seconds)
            for truth, one in zip(truths, found, strict=True)
        ]
        systems.append(
            (name, total(each for each, _ in judged), sum(seconds for _, seconds in judged))
        )
    figures: dict[str, Any] = {
        "engine": info.engine,
        "model": info.model,
        "device": info.device,
        "compute_type": info.compute_type,
        "total": total(scores).to_json(),
        "files": [file.to_json() for file in scores],
    }
    text = table(scores)
    if request.compare:
        figures["systems"] = {
            name: judged.to_json() | {"seconds": s} for name, judged, s in systems
        }
        text += f"\n\n{systems_table(systems)}"
    return Evaluation(f"{text}\n", figures)
