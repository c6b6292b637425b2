"""The parameters of the tools, each described once."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .mcp_pages import DEFAULT_CHARS, MAX_CHARS, MIN_CHARS

LONGEST_WAIT_S = 45  # clients give up after a minute
DEFAULT_WAIT_S = 20
MAX_PAGE = 100

Source = Annotated[
    str,
    Field(
        description="Path of an audio or video file, or an http(s) address where the server allows it.", max_length=4096
    ),
]
Sources = Annotated[
    list[Annotated[str, Field(max_length=4096)]],
    Field(description="Files, directories (searched for recordings) and patterns such as talks/**/*.mp3.", min_length=1,
          max_length=1000),
]  # fmt: skip
Model = Annotated[
    str, Field(description="A name from list_models, a directory, or auto: what suits the machine.", max_length=1024)
]
Language = Annotated[str, Field(description="Code or English name; auto lets several stretches vote.", max_length=64)]
Task = Annotated[
    Literal["transcribe", "translate"], Field(description="translate gives English text, whatever is spoken.")
]
Diarize = Annotated[bool, Field(description="Say who speaks. Not available yet: accepted with a warning.")]
Vocabulary = Annotated[
    list[Annotated[str, Field(max_length=200)]],
    Field(description="Names and words to expect, as they are spelt.", max_length=500),
]
Track = Annotated[str, Field(description="Audio track: auto, a number from 1, or all.", max_length=16)]
Channel = Annotated[
    str, Field(description="auto, mix, left, right, a number from 1, or split: each by itself.", max_length=16)
]
Formats = Annotated[
    list[Annotated[str, Field(max_length=16)]],
    Field(
        description="txt, srt, vtt, tsv, json or md: the text comes in the first, the addresses of all.", max_length=6
    ),
]
Force = Annotated[bool, Field(description="Transcribe again though the same file with the same options was.")]
Wait = Annotated[
    float,
    Field(
        description="Seconds to wait for the end, at most 45. Afterwards the job goes on; ask with its job_id.",
        ge=0,
        le=LONGEST_WAIT_S,
    ),
]
JobId = Annotated[str, Field(description="The job_id that an earlier answer gave.", max_length=100)]
JobOrBatchId = Annotated[str, Field(description="The job_id of a job or of a batch.", max_length=100)]
Format = Annotated[
    str,
    Field(
        description="txt, srt, vtt, tsv, json, md; or segments: start, end and text of each sentence.", max_length=16
    ),
]
Start = Annotated[float | None, Field(description="Only what is said after this second.", ge=0)]
End = Annotated[float | None, Field(description="Only what is said before this second.", ge=0)]
MaxChars = Annotated[
    int, Field(description=f"Length of a page; {DEFAULT_CHARS} fits most contexts.", ge=MIN_CHARS, le=MAX_CHARS)
]
Cursor = Annotated[str | None, Field(description="next_cursor of the page before.", max_length=2048)]
SaveAs = Annotated[
    str | None,
    Field(description="Write the whole transcript to this file instead; it ends in the format's extension.",
          max_length=4096),
]  # fmt: skip
Overwrite = Annotated[bool, Field(description="Replace the file if it is there.")]
Statuses = Annotated[
    list[Literal["queued", "running", "completed", "failed", "cancelled"]],
    Field(description="Only these; empty is all.", max_length=5),
]
SourceContains = Annotated[str, Field(description="Only recordings with this in their path.", max_length=500)]
BatchId = Annotated[str, Field(description="Only jobs of this batch.", max_length=100)]
Days = Annotated[float | None, Field(description="Only what was submitted in so many days.", gt=0, le=36500)]
Query = Annotated[
    str, Field(description='Words that a sentence holds, in any order; "in quotes" together.', max_length=500)
]
Limit = Annotated[int, Field(description="Rows of a page.", ge=1, le=MAX_PAGE)]
Explain = Annotated[bool, Field(description="Also the commands that would put right what was found.")]
