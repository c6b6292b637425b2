"""Output formats. To add one, write a function from transcript and options to text, and a row in
``FORMATS``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..domain.options import FormatOptions, SubtitleRules
from ..domain.transcript import Transcript
from ..errors import UnknownNameError
from . import captions, documents, word
from .files import check_target, plan, require_writable, write_whole

__all__ = [
    "FORMATS",
    "WORD",
    "Format",
    "FormatOptions",
    "SubtitleRules",
    "WordFormat",
    "check_target",
    "export",
    "exports",
    "find_export",
    "find_format",
    "plan",
    "render",
    "require_writable",
    "write",
]


@dataclass(frozen=True, slots=True)
class Format:
    render: Callable[[Transcript, FormatOptions], str]
    media_type: str
    extension: str
    summary: str


@dataclass(frozen=True, slots=True)
class WordFormat:
    """A format for exports only: it is not text."""

    render: Callable[[Transcript], bytes]
    media_type: str
    extension: str
    summary: str


def _json(transcript: Transcript, _: FormatOptions) -> str:
    return transcript.dumps()


FORMATS = {
    "txt": Format(documents.txt, "text/plain", ".txt", "plain text, one sentence per line"),
    "timed": Format(
        documents.timed, "text/plain", ".timed.txt", "plain text, each sentence after its time"
    ),
    "srt": Format(captions.srt, "application/x-subrip", ".srt", "SubRip subtitles"),
    "vtt": Format(captions.vtt, "text/vtt", ".vtt", "WebVTT subtitles"),
    "tsv": Format(
        documents.tsv, "text/tab-separated-values", ".tsv", "start and end in milliseconds, text"
    ),
    "rttm": Format(
        documents.rttm, "text/plain", ".rttm", "speaker turns with overlap, in NIST's RTTM format"
    ),
    "json": Format(_json, "application/json", ".json", "all data, as described by schema.json"),
    "md": Format(
        documents.md, "text/markdown", ".md", "a page with facts, warnings and timed paragraphs"
    ),
}


WORD = WordFormat(
    word.docx,
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    ".docx",
    "a Word document with timed paragraphs",
)


def exports() -> dict[str, Format | WordFormat]:
    """The export formats available on this machine."""
    return {**FORMATS, **({"docx": WORD} if word.is_installed() else {})}


def find_export(name: str) -> Format | WordFormat:
    """Raises as ``find_format``."""
    return WORD if name == "docx" else find_format(name, ("docx",))


def export(transcript: Transcript, name: str) -> bytes:
    """A transcript as a file.

    Raises:
        UnknownNameError: no such format.
        UsageError: the package for it is not installed.
    """
    found = find_export(name)
    if isinstance(found, WordFormat):
        return found.render(transcript)
    return render(transcript, name).encode()


def find_format(name: str, others: Sequence[str] = ()) -> Format:
    """

    Raises:
        UnknownNameError: no such format; the hint suggests the nearest name, also among ``others``.
    """
    if name in FORMATS:
        return FORMATS[name]
    message = f"there is no output format {name[:64]!r}"
    raise UnknownNameError.unknown(message, name, (*FORMATS, *others), "formats")


def render(transcript: Transcript, name: str, options: FormatOptions | None = None) -> str:
    """Render a transcript as text that ends with a newline (or is empty) and encodes as UTF-8.

    Raises:
        UnknownNameError: no such format.
    """
    text = find_format(name).render(transcript, options or FormatOptions())
    # File names can hold bytes that are not text (lone surrogates in Python); they become \udcXX.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def write(
    transcript: Transcript,
    name: str,
    path: Path | str,
    *,
    overwrite: bool = False,
    options: FormatOptions | None = None,
) -> Path:
    """Write the transcript to ``path`` atomically as UTF-8; creates missing directories.

    Raises:
        UnknownNameError: no such format.
        OutputExistsError: the file exists and ``overwrite`` is not set.
        OutputError: the system refuses to write there.
    """
    target = Path(path)
    write_whole(target, render(transcript, name, options).encode(), overwrite=overwrite)
    return target
