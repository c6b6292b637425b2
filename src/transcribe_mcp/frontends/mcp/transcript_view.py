"""The transcript view: an HTML document that clients with the extension MCP Apps show beside
``show_transcript``, and its requests to the server.

The document is one file without external links, because clients block nearly everything. It is
built from the page's style and modules. The view gets text and audio through tools that are not
offered to models.
"""

from __future__ import annotations

import base64
import json
import re
from functools import cache
from importlib.resources import files
from typing import Any

from ...domain.transcript import Segment
from ...service.models import Job, Transcript
from ...service.uploads import recording_name
from . import answers, sdk

URI = "ui://transcribe-mcp/transcript.html"
# Some hosts read the first key, some the second.
SHOWN_BY_VIEW = {"ui": {"resourceUri": URI}, "ui/resourceUri": URI}
FOR_VIEW = {"ui": {"resourceUri": URI, "visibility": ["app"]}}

ANSWER_BYTES = 200_000  # of one answer; clients limit messages
CLIP_S = 30.0
CLIP_TYPE = "audio/ogg; codecs=opus"

# In the order of their imports. Each becomes a function, and its exports constants.
MODULES = (
    "elements.js", "colours.js", "marks.js", "segments.js", "text.js", "sound.js", "wave.js",
    "find.js", "reader.js", "keys.js", "view/client.js", "view/clips.js", "view/view.js",
)  # fmt: skip
_IMPORT = re.compile(r"^import\b[^;]*;\n", re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:async )?(?:function|class|const) ([\w$]+))", re.MULTILINE)
_COMMENT = re.compile(r"^ *(?://.*|/\*.*\*/)\n", re.MULTILINE)


def apps() -> sdk.Apps:
    """The extension with the document."""
    made = sdk.Apps()
    made.add_html_resource(URI, document(), name="transcript", title="Transcript")
    return made


@cache
def document() -> str:
    web = files("transcribe_mcp.frontends") / "web"

    def read(name: str) -> str:
        return web.joinpath(*name.split("/")).read_text(encoding="utf-8")

    script = "\n".join(_as_function(read(name)) for name in MODULES)
    icons = read("icons.svg").replace('<symbol id="', '<symbol id="icon-')
    parts = {"style": read("style.css"), "icons": icons, "script": script}
    html = re.sub(r"<!-- (\w+) -->", lambda found: parts[found[1]], read("view/view.html"))
    return _COMMENT.sub("", html)


def _as_function(module: str) -> str:
    names = ", ".join(_EXPORT.findall(module))
    body = _EXPORT.sub("", _IMPORT.sub("", module))
    return f"const {{ {names} }} = (() => {{\n{body}return {{ {names} }};\n}})();"


async def offer_to_viewers(ctx: Any, call_next: Any) -> Any:
    """List the view and its tools only for clients that can show it."""
    result = await call_next(ctx)
    if ctx.method != "tools/list" or sdk.client_supports_apps(ctx):
        return result
    return {**result, "tools": without_view(result["tools"])}


def without_view(tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The tools as a client without the extension sees them."""
    return [
        {name: value for name, value in tool.items() if name != "_meta"}
        for tool in tools
        if tool.get("_meta") != FOR_VIEW
    ]


def text_answer(job: Job, transcript: Transcript, revision: int, first: int) -> answers.ViewAnswer:
    """The segments from a number on that fit an answer, at least one."""
    rows: list[dict[str, Any]] = []
    n_bytes = 0
    for segment in transcript.segments[first:]:
        row = _row(segment)
        n_bytes += len(json.dumps(row, ensure_ascii=False).encode())
        if rows and n_bytes > ANSWER_BYTES:
            break
        rows.append(row)
    end = first + len(rows)
    return answers.ViewAnswer(
        job_id=job.job_id,
        status=job.status.value,
        title=recording_name(job.source),
        revision=revision,
        duration=transcript.duration,
        language=transcript.language,
        segments=rows,
        next_first=end if end < len(transcript.segments) else None,
    )


def _row(segment: Segment) -> dict[str, Any]:
    return {
        "start": segment.start,
        "end": segment.end,
        "text": segment.text,
        "speaker": segment.speaker,
        "language": segment.language,
        "words": [[each.text, each.start, each.end, each.probability] for each in segment.words],
    }


def clip_answer(start_s: float, clip: bytes) -> answers.ClipAnswer:
    return answers.ClipAnswer(CLIP_TYPE, start_s, base64.b64encode(clip).decode("ascii"))
