"""The output of ``doctor``: one screen for people, one JSON object for programs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from .derived_facts import DerivedFacts
from .diagnose import exit_code, not_judged, worst
from .explain import Recognised
from .facts import Facts, to_json
from .rules import AREAS, RULES, SEVERITIES, SIGNS, Finding, Rule
from .runtime_choice import usual_choices, usual_text
from .tables import table

_RESULTS: Mapping[int, str] = {0: "fit", 1: "degraded", 2: "broken"}
_AREA_WIDTH = 24


def doctor_json(
    facts: Facts, findings: Sequence[Finding], only: Sequence[str] = ()
) -> dict[str, Any]:
    """The report as JSON. ``only`` names the requested rules; empty means all."""
    code = exit_code(findings)
    return {
        "schema": "transcribe-mcp.doctor/1",
        "tables_as_of": table("packages").as_of,
        "result": _RESULTS[code],
        "exit_code": code,
        **({"only": list(only), "not_judged": not_judged(facts, only)} if only else {}),
        "findings": [asdict(finding) for finding in findings],
        "runs_on": [asdict(choice) for choice in usual_choices(facts)],
        "facts": to_json(facts, scrub=True),
    }


def doctor_text(facts: Facts, findings: Sequence[Finding], *, verbose: bool = False) -> str:
    """One line per area with its sign, followed by the findings of that area."""
    machine = DerivedFacts(facts)
    lines = []
    for area, title in AREAS.items():
        here = [finding for finding in findings if finding.area == area]
        has_operations = any(name.startswith("deep.") for name in facts)
        if area == "operations" and not here and not has_operations:
            continue
        sign = SIGNS[max((f.severity for f in here), key=SEVERITIES.index, default="ok")]
        lines.append(f"{sign} {title:<{_AREA_WIDTH}}{_SUMMARIES[area](machine)}")
        for finding in here:
            if verbose or finding.severity != "info":
                lines += _finding_lines(finding, verbose=verbose)
    lines += ["", *usual_text(facts), _verdict(findings)]
    return "\n".join(lines + (_fact_lines(facts) if verbose else []))


def only_text(
    facts: Facts, findings: Sequence[Finding], only: Sequence[str], *, verbose: bool = False
) -> str:
    """One line per requested rule with its result; ``?`` if the facts do not tell."""
    unclear = not_judged(facts, only)
    found = {finding.code: finding for finding in findings}
    lines = []
    for rule in RULES:
        if rule.code in found:
            lines += _finding_lines(found[rule.code], verbose=verbose)
        elif rule.code in unclear:
            lines.append(f"    ? {rule.code} {rule.title}: not checked, {_why_unclear(rule)}")
        elif rule.code in only:
            lines.append(f"    {SIGNS['ok']} {rule.code} {rule.title}: not found")
    return "\n".join([*lines, "", "No other rules were checked. To check all: doctor"])


def _why_unclear(rule: Rule) -> str:
    if rule.area == "operations":
        return "it needs doctor --deep"
    return "its facts are unknown" if rule.when else "only logs show it: doctor --explain"


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
    problems = f"{count} problem{'s'[: count > 1]}"
    more = "Causes: doctor -v. A working setup: doctor --plan"
    words = {
        "ok": "Fit for transcription.",
        "info": "Fit for transcription.",
        "warn": f"Works, with {count} warning{'s'[: count > 1]}.",
        "error": f"{problems} to fix. {more}",
        "crash": f"{problems} that would crash the process. {more}",
    }
    return words[severity]


def _fact_lines(facts: Facts) -> list[str]:
    lines = ["", "Facts:"]
    for fact in facts.values():
        shown = f"{fact.value}  [{fact.source}]" if not fact.unknown else f"unknown: {fact.unknown}"
        lines.append(f"  {fact.name} = {shown[:220]}  ({fact.took_s * 1000:.0f} ms)")
    return lines


def _machine(machine: DerivedFacts) -> str:
    parts = [
        machine.distribution,
        machine.machine,
        f"Python {_or_unknown(machine.python)}",
        f"{machine.cores} cores" if machine.cores is not None else None,
        "in a container" if machine.is_container else None,
        "WSL" if machine.wsl else None,
    ]
    return ", ".join(part for part in parts if part)


def _or_unknown(value: object) -> str:
    return "unknown" if value is None else str(value)


def _gpu(machine: DerivedFacts) -> str:
    if not machine.gpus:
        return "no NVIDIA GPU" + (
            f", though driver {machine.driver} is loaded" if machine.driver else ""
        )
    names = ", ".join(f"{gpu} {gpu.total_bytes / 1e9:.0f} GB" for gpu in machine.gpus)
    driver = f"driver {_or_unknown(machine.driver)}, CUDA up to {_or_unknown(machine.driver_cuda)}"
    return f"{names}; {driver}"


def _ctranslate2(machine: DerivedFacts) -> str:
    version = machine.version("ctranslate2")
    if version is None:
        return "not installed" if machine.installs("ctranslate2") is False else "unknown"
    if machine.ct2_gpu_code is None:
        return version
    cudnn = f", cuDNN {machine.ct2_cudnn}" if machine.ct2_cudnn else ", no cuDNN needed"
    return (
        f"{version} with CUDA {machine.ct2_cuda}{cudnn}"
        if machine.ct2_gpu_code
        else f"{version} for the CPU"
    )


def _torch(machine: DerivedFacts) -> str:
    version = machine.version("torch")
    return f"{version} ({machine.torch_variant or 'build unknown'})" if version else "not installed"


def _whisperx(machine: DerivedFacts) -> str:
    names = ("whisperx", "pyannote-audio", "torchaudio", "torchcodec", "lightning")
    return (
        ", ".join(
            f"{name} {machine.installed[name]}" for name in names if name in machine.installed
        )
        or "not installed"
    )


def _libraries(machine: DerivedFacts) -> str:
    found = [
        *machine.facts.value("libraries.cublas", []),
        *machine.facts.value("libraries.cudnn", []),
    ]
    main = ("libcublas.so", "cublas64", "libcudnn.so", "cudnn64")
    names = sorted(
        {
            f"{i['name']} ({i.get('where')})"
            for i in found
            if str(i.get("name", "")).startswith(main)
        }
    )
    return ", ".join(names) or "no cuBLAS or cuDNN found"


def _settings(machine: DerivedFacts) -> str:
    names = sorted(machine.variables)
    return f"set: {', '.join(names)}" if names else "no relevant variables are set"


def _memory(machine: DerivedFacts) -> str:
    free = f", {machine.disk_gb} GB of disk free" if machine.disk_gb is not None else ""
    return f"{_or_unknown(machine.ram_gb)} GB{free}"


def _operations(machine: DerivedFacts) -> str:
    results = {name: fact.value for name, fact in machine.facts.items() if name.startswith("deep.")}
    return ", ".join(
        f"{name[5:].replace('.', ' on ')}: {result.get('end')}"
        for name, result in results.items()
        if result
    )


_SUMMARIES: Mapping[str, Callable[[DerivedFacts], str]] = {
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


def rules_text() -> str:
    return "\n".join(f"{rule.code}  {rule.severity:<6} {rule.title}" for rule in RULES)


def rules_json() -> list[dict[str, Any]]:
    """Every rule; names in capitals stand for a machine's values."""
    return [asdict(rule.finding()) | {"patterns": list(rule.patterns)} for rule in RULES]


def explain_json(found: Sequence[Recognised], machine: DerivedFacts) -> dict[str, Any]:
    """The known errors of a log. ``machine`` fills the fixes in, as far as it is known."""

    def record(item: Recognised) -> dict[str, Any]:
        finding = asdict(item.rule.finding(machine))
        keys = ("cause", "consequence", "fix", "source")
        named = {"code": item.rule.code, "title": item.rule.title, "words": item.words}
        return named | {key: finding[key] for key in keys}

    return {"schema": "transcribe-mcp.explain/1", "found": [record(item) for item in found]}


def explain_text(found: Sequence[Recognised], machine: DerivedFacts) -> str:
    if not found:
        return "No known error found. To check the machine: transcribe-mcp doctor"
    blocks = []
    for item in found:
        rule = item.rule
        lines = [
            f"{SIGNS[rule.severity]} {rule.code} {rule.title}",
            f"    said: {item.words}",
            f"    why: {rule.cause}",
            *(f"    > {command}" for command in rule.commands(machine)),
            f"    see {rule.source}",
        ]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)
