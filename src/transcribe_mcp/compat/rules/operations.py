"""Operations of ``doctor --deep``; ``diagnose`` applies these rules. ``m`` is the machine."""

from __future__ import annotations

from functools import partial

from .base import Rule

_rule = partial(Rule, area="operations")
RULES = (
    _rule(
        code="TM801",
        severity="error",
        title="a real operation failed",
        evidence="",
        cause="See its output.",
        consequence="This engine does not work on this machine.",
        fix=("transcribe-mcp doctor --deep -v",),
        source="https://docs.python.org/3/library/subprocess.html",
    ),
    _rule(
        code="TM802",
        severity="crash",
        title="a real operation crashed its process",
        evidence="",
        cause="Native code aborted or crashed; Python cannot catch that.",
        consequence="A worker with this engine would die.",
        fix=("transcribe-mcp doctor --deep -v",),
        source="https://docs.python.org/3/library/signal.html",
    ),
    _rule(
        code="TM803",
        severity="error",
        title="a real operation hung",
        evidence="",
        cause="It did not end within its time limit.",
        consequence="A worker with this engine would hang.",
        fix=("transcribe-mcp doctor --deep -v",),
        source="https://docs.python.org/3/library/subprocess.html",
    ),
    _rule(
        code="TM804",
        severity="warn",
        title="a real operation fell back to the CPU",
        evidence="",
        cause="The operation fails on the GPU and works on the CPU.",
        consequence="Transcription works, but slower.",
        fix=("transcribe-mcp doctor --deep -v",),
        source="https://opennmt.net/CTranslate2/hardware_support.html",
    ),
)
