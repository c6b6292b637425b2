"""Word documents, with python-docx."""

from __future__ import annotations

import io
import re
from importlib.util import find_spec

from ..domain.transcript import Transcript
from ..errors import UsageError
from .documents import hms, paragraphs, title

# XML has no place for other characters.
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def is_installed() -> bool:
    return find_spec("docx") is not None


def docx(transcript: Transcript) -> bytes:
    """A document with a heading and paragraphs, each with its time and speaker.

    Raises:
        UsageError: python-docx is not installed.
    """
    if not is_installed():
        hint = "pip install 'transcribe-mcp[docx]', or choose md"
        raise UsageError("the format docx needs python-docx", hint=hint)
    import docx

    document = docx.Document()
    name = _xml(title(transcript))
    document.core_properties.title = name
    document.core_properties.author = ""
    document.add_heading(name, level=1)
    for paragraph in paragraphs(transcript):
        block = document.add_paragraph(f"[{hms(paragraph[0].start)}] ")
        if paragraph[0].speaker:
            block.add_run(_xml(f"{paragraph[0].speaker}: ")).bold = True
        block.add_run(_xml(" ".join(said.text for said in paragraph)))
    written = io.BytesIO()
    document.save(written)
    return written.getvalue()


def _xml(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)
