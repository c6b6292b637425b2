"""Subtitle files: SubRip (srt) and WebVTT (vtt, https://www.w3.org/TR/webvtt1/)."""

from __future__ import annotations

from ..domain.options import FormatOptions
from ..domain.transcript import Transcript
from .speech import clean, clock
from .subtitles import Cue, cut_cues


def srt(transcript: Transcript, options: FormatOptions) -> str:
    """Render SubRip. It has no escapes and no speakers, so names are part of the text and ``-->``
    becomes →.
    """
    cues = cut_cues(transcript, options.subtitles, label_speakers=True)
    return "\n".join(
        "\n".join(
            [f"{number}", _times(cue, ","), *(t.replace("-->", "→") for t in cue.text_lines), ""]
        )
        for number, cue in enumerate(cues, 1)
    )


def vtt(transcript: Transcript, options: FormatOptions) -> str:
    blocks = ["WEBVTT"]
    if options.note:
        blocks.append("NOTE " + _escaped(clean(_made_by(transcript))))
    for cue in cut_cues(transcript, options.subtitles):
        voice = f"<v {_escaped(cue.speaker)}>" if cue.speaker else ""
        text = (
            _highlighted(cue)
            if options.highlight_words
            else "\n".join(map(_escaped, cue.text_lines))
        )
        blocks.append(f"{_times(cue, '.')}\n{voice}{text}")
    return "\n\n".join(blocks) + "\n"


def _made_by(transcript: Transcript) -> str:
    made_by = (
        f"{transcript.engine}, model {transcript.model}, {transcript.device} "
        f"{transcript.compute_type}"
    )
    return ", ".join([made_by, *(f"warning {notice.code}" for notice in transcript.warnings)])


def _highlighted(cue: Cue) -> str:
    """Put timestamps before words: WebVTT requires rising times after the cue's start and before
    its end.
    """
    lines: list[str] = []
    stamped_ms = cue.start_ms
    for line in cue.lines:
        text = ""
        for piece in line:
            spoken = _escaped(piece.text if text else piece.text.lstrip())
            if piece.start_ms is not None and stamped_ms < piece.start_ms < cue.end_ms:
                stamped_ms = piece.start_ms
                text += f"<{clock(stamped_ms, '.')}>"
            text += spoken
        lines.append(text)
    return "\n".join(lines)


def _times(cue: Cue, mark: str) -> str:
    return f"{clock(cue.start_ms, mark)} --> {clock(cue.end_ms, mark)}"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
