"""Documents and tables: plain text, tab-separated values, Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePath

from ..domain.options import FormatOptions
from ..domain.transcript import Transcript
from .speech import Utterance, clean, utterances

PARAGRAPH_PAUSE_S = 2.0
PARAGRAPH_S = 30.0  # a paragraph ends with the sentence that reaches this


def txt(transcript: Transcript, _: FormatOptions) -> str:
    return "".join(f"{_speaker_prefix(said)}{said.text}\n" for said in utterances(transcript))


def timed(transcript: Transcript, _: FormatOptions) -> str:
    """Plain text with a time before each sentence: ``[12:34] sentence``, ``[1:02:03]`` after an
    hour.
    """
    return "".join(
        f"[{_clock(said.start)}] {_speaker_prefix(said)}{said.text}\n"
        for said in utterances(transcript)
    )


def _speaker_prefix(said: Utterance) -> str:
    return f"{said.speaker}: " if said.speaker else ""


def tsv(transcript: Transcript, _: FormatOptions) -> str:
    """The columns of openai-whisper's ``WriteTSV``: start and end in whole milliseconds, text."""
    rows = (
        f"{round(1000 * said.start)}\t{round(1000 * said.end)}\t{said.text}\n"
        for said in utterances(transcript)
    )
    return "start\tend\ttext\n" + "".join(rows)


def rttm(transcript: Transcript, _: FormatOptions) -> str:
    """The turns in NIST's Rich Transcription Time Marked format. Fields are separated by spaces, so
    spaces in names become underscores.
    """
    name = _field(PurePath(transcript.source or "").stem) or "recording"
    return "".join(
        f"SPEAKER {name} 1 {start:.3f} {end - start:.3f} <NA> <NA> {_field(speaker)} <NA> <NA>\n"
        for start, end, speaker in _turns(transcript)
    )


def _turns(transcript: Transcript) -> Iterator[tuple[float, float, str]]:
    """The turns in milliseconds, as in JSON. For channels and tracks, sentences are the turns."""
    for turn in transcript.turns or transcript.segments:
        if turn.speaker:
            yield round(turn.start, 3), round(turn.end, 3), turn.speaker


def _field(text: str) -> str:
    return "_".join(clean(text).split())


def md(transcript: Transcript, _: FormatOptions) -> str:
    blocks = [f"# {_markdown(title(transcript))}", _facts(transcript)]
    if transcript.warnings:
        blocks.append(
            "\n".join(
                f"- ⚠ {_markdown(clean(n.message))} ({_markdown(n.code)})"
                for n in transcript.warnings
            )
        )
    for paragraph in paragraphs(transcript):
        speaker = f" **{_markdown(paragraph[0].speaker)}:**" if paragraph[0].speaker else ""
        text = " ".join(_markdown(said.text) for said in paragraph)
        blocks.append(f"[{hms(paragraph[0].start)}]{speaker} {text}")
    return "\n\n".join(blocks) + "\n"


def title(transcript: Transcript) -> str:
    """The name of the recording."""
    source = transcript.source or ""
    return clean(PurePath(source).name) or clean(source) or "Transcript"


def _facts(transcript: Transcript) -> str:
    language = transcript.language or "unknown"
    if transcript.language and transcript.language_probability is not None:
        language += f" ({transcript.language_probability:.0%})"
    rows = {
        "Duration": hms(transcript.duration),
        "Language": language,
        "Task": transcript.task,
        "Engine": transcript.engine,
        "Model": transcript.model,
        "Device": f"{transcript.device}, {transcript.compute_type}",
    }
    return "\n".join(
        [
            "| | |",
            "|---|---|",
            *(f"| {name} | {_markdown(clean(value))} |" for name, value in rows.items()),
        ]
    )


def paragraphs(transcript: Transcript) -> Iterator[list[Utterance]]:
    """Groups of utterances that end at a change of speaker, at a pause, or after half a minute."""
    paragraph: list[Utterance] = []
    for said in utterances(transcript):
        if paragraph and _starts_paragraph(said, paragraph):
            yield paragraph
            paragraph = []
        paragraph.append(said)
    if paragraph:
        yield paragraph


def _starts_paragraph(said: Utterance, paragraph: list[Utterance]) -> bool:
    return (
        said.speaker != paragraph[-1].speaker
        or said.start - paragraph[-1].end >= PARAGRAPH_PAUSE_S
        or paragraph[-1].end - paragraph[0].start >= PARAGRAPH_S
    )


_MARKUP = re.compile(r"([\\`*_{}\[\]<>#|~&$])")


def _markdown(text: str) -> str:
    """Escape everything that Markdown, HTML or formulas would interpret."""
    return _MARKUP.sub(r"\\\1", text)


def _clock(time_s: float) -> str:
    hours, seconds = divmod(int(time_s), 3600)
    minutes, seconds = divmod(seconds, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def hms(time_s: float) -> str:
    """Seconds as ``HH:MM:SS``."""
    seconds = int(time_s)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
