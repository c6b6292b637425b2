"""What ``doctor`` shows: one screen for a person, one object for a program."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from .explain import Recognised
from .facts import Facts, to_json
from .judge import exit_code, not_judged, worst
from .machine import gpus_of
from .rules import AREAS, SEVERITIES, SIGNS, Finding, Rule, commands, rules
from .tables import table
from .view import view_of

_RESULTS: Mapping[int, str] = {0: "fit", 1: "degraded", 2: "broken"}
_AREA_WIDTH = 24


def doctor_json(
    facts: Facts, findings: Sequence[Finding], only: Sequence[str] = ()
) -> dict[str, Any]:
    """``only``: the rules that were asked for; empty means all."""
    code = exit_code(findings)
    return {
        "schema": "transcribe-mcp.doctor/1",
        "tables_as_of": table("packages").as_of,
        "result": _RESULTS[code],
        "exit_code": code,
        **({"only": list(only), "not_judged": not_judged(facts, only)} if only else {}),
        "findings": [asdict(finding) for finding in findings],
        "facts": to_json(facts, scrub=True),
    }


def doctor_text(facts: Facts, findings: Sequence[Finding], *, verbose: bool = False) -> str:
    """A line per area with its sign; under it what was found there."""
    view = view_of(facts)
    lines = []
    for area, title in AREAS.items():
        here = [finding for finding in findings if finding.area == area]
        if (
            area == "operations"
            and not here
            and not any(name.startswith("deep.") for name in facts)
        ):
            continue
        sign = SIGNS[max((f.severity for f in here), key=SEVERITIES.index, default="ok")]
        lines.append(f"{sign} {title:<{_AREA_WIDTH}}{_SUMMARIES[area](facts, view)}")
        for finding in here:
            if verbose or finding.severity != "info":
                lines += _finding_lines(finding, verbose=verbose)
    lines += ["", _verdict(findings)]
    return "\n".join(lines + (_fact_lines(facts) if verbose else []))


def only_text(
    facts: Facts, findings: Sequence[Finding], only: Sequence[str], *, verbose: bool = False
) -> str:
    """A line per rule that was asked for, with what it found; no sign for what was not looked at."""
    unclear, found = not_judged(facts, only), {finding.code: finding for finding in findings}
    lines = []
    for rule in rules():
        if rule.code in found:
            lines += _finding_lines(found[rule.code], verbose=verbose)
        elif rule.code in unclear:
            why = (
                "what it looks at is unknown here"
                if rule.when
                else "it is known from logs only: doctor --explain"
            )
            why = "it needs doctor --deep" if rule.area == "operations" else why
            lines.append(f"    ? {rule.code} {rule.title}: not judged, {why}")
        elif rule.code in only:
            lines.append(f"    {SIGNS['ok']} {rule.code} {rule.title}: not found")
    return "\n".join([*lines, "", "Nothing else was judged. The whole machine: doctor"])


def _finding_lines(finding: Finding, *, verbose: bool) -> list[str]:
    lines = [
        f"    {SIGNS[finding.severity]} {finding.code} {finding.title}",
        f"        {finding.evidence}",
    ]
    if verbose:
        lines += [f"        why: {finding.cause}", f"        so: {finding.consequence}"]
    lines += [f"        > {command}" for command in (finding.fix if verbose else finding.fix[:1])]
    return lines + ([f"        see {finding.source}"] if verbose else [])


def _verdict(findings: Sequence[Finding]) -> str:
    severity = worst(findings)
    count = sum(finding.severity == severity for finding in findings)
    things = f"{count} thing{'s'[: count > 1]}"
    more = "Reasons: doctor -v. A stack that fits: doctor --plan"
    words = {
        "ok": "Fit for transcription.",
        "info": "Fit for transcription.",
        "warn": f"Works, with {things} to know.",
        "error": f"{things} to repair. {more}",
        "crash": f"{things} that would end the process. {more}",
    }
    return words[severity]


def _fact_lines(facts: Facts) -> list[str]:
    lines = ["", "Facts:"]
    for fact in facts.values():
        shown = f"{fact.value}  [{fact.source}]" if not fact.unknown else f"unknown: {fact.unknown}"
        lines.append(f"  {fact.name} = {shown[:220]}  ({fact.took_s * 1000:.0f} ms)")
    return lines


def _machine(facts: Facts, view: Mapping[str, Any]) -> str:
    parts = [
        view.get("distribution"),
        view.get("machine"),
        f"Python {view.get('python', 'unknown')}",
        f"{view['cores']} cores" if "cores" in view else None,
        "in a container" if view.get("container") else None,
        "WSL" if view.get("wsl") else None,
    ]
    return ", ".join(str(part) for part in parts if part)


def _gpu(facts: Facts, view: Mapping[str, Any]) -> str:
    gpus = gpus_of(facts)
    if not gpus:
        return "no NVIDIA GPU" + (
            f", though driver {view['driver']} is loaded" if view.get("driver") else ""
        )
    names = ", ".join(f"{gpu.label} {gpu.total_bytes / 1e9:.0f} GB" for gpu in gpus)
    return f"{names}; driver {view.get('driver', 'unknown')}, CUDA up to {view.get('driver_cuda', 'unknown')}"


def _ctranslate2(facts: Facts, view: Mapping[str, Any]) -> str:
    version = view.get("ctranslate2")
    if version is None:
        return "not installed" if view.get("has.ctranslate2") is False else "unknown"
    if view.get("ct2_gpu_code"):
        cudnn = f", cuDNN {view['ct2_cudnn']}" if view.get("ct2_cudnn") else ", no cuDNN needed"
        return f"{version} with CUDA {view.get('ct2_cuda')}{cudnn}"
    return f"{version} for the CPU" if view.get("ct2_gpu_code") is False else str(version)


def _torch(facts: Facts, view: Mapping[str, Any]) -> str:
    version = view.get("torch")
    return (
        f"{version} ({view.get('torch_variant', 'build unknown')})" if version else "not installed"
    )


def _whisperx(facts: Facts, view: Mapping[str, Any]) -> str:
    names = ("whisperx", "pyannote-audio", "torchaudio", "torchcodec", "lightning")
    return ", ".join(f"{name} {view[name]}" for name in names if name in view) or "not installed"


def _libraries(facts: Facts, view: Mapping[str, Any]) -> str:
    found = [*facts.value("libraries.cublas", []), *facts.value("libraries.cudnn", [])]
    main = ("libcublas.so", "cublas64", "libcudnn.so", "cudnn64")
    names = sorted(
        {
            f"{i['name']} ({i.get('where')})"
            for i in found
            if str(i.get("name", "")).startswith(main)
        }
    )
    return ", ".join(names) or "no cuBLAS or cuDNN seen"


def _settings(facts: Facts, view: Mapping[str, Any]) -> str:
    names = sorted(facts.value("environment.variables", {}))
    return f"set: {', '.join(names)}" if names else "no variable that matters is set"


def _memory(facts: Facts, view: Mapping[str, Any]) -> str:
    free = f", {view['disk_gb']} GB of disk free" if "disk_gb" in view else ""
    return f"{view.get('ram_gb', 'unknown')} GB{free}"


def _operations(facts: Facts, view: Mapping[str, Any]) -> str:
    done = {
        name: fact.value
        for name, fact in facts.items()
        if name.startswith("deep.") and isinstance(fact.value, dict)
    }
    return ", ".join(
        f"{name[5:].replace('.', ' on ')}: {result.get('end')}" for name, result in done.items()
    )


_SUMMARIES: Mapping[str, Callable[[Facts, Mapping[str, Any]], str]] = {
    "machine": _machine,
    "gpu": _gpu,
    "ctranslate2": _ctranslate2,
    "torch": _torch,
    "whisperx": _whisperx,
    "libraries": _libraries,
    "settings": _settings,
    "memory": _memory,
    "operations": _operations,
}


def rules_text(shown: Sequence[Rule]) -> str:
    return "\n".join(f"{rule.code}  {rule.severity:<6} {rule.title}" for rule in shown)


def explain_json(found: Sequence[Recognised], view: Mapping[str, Any]) -> dict[str, Any]:
    """``view``: names of the machine that the log is from, as far as they are known."""

    def record(item: Recognised) -> dict[str, Any]:
        rule = item.rule
        return {"code": rule.code, "title": rule.title, "words": item.words, "cause": rule.cause,
                "consequence": rule.consequence, "fix": list(commands(rule, view)),
                "source": rule.source}  # fmt: skip

    return {"schema": "transcribe-mcp.explain/1", "found": [record(item) for item in found]}


def explain_text(found: Sequence[Recognised], view: Mapping[str, Any]) -> str:
    if not found:
        return "No known error in this text. The machine itself: transcribe-mcp doctor"
    blocks = []
    for item in found:
        rule = item.rule
        lines = [
            f"{SIGNS[rule.severity]} {rule.code} {rule.title}",
            f"    said: {item.words}",
            f"    why: {rule.cause}",
        ]
        lines += [f"    > {command}" for command in commands(rule, view)] + [
            f"    see {rule.source}"
        ]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)
