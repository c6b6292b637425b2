"""Every format against its golden file, and against text that looks like markup.

After a change that is meant, run ``python tests/test_formats.py``: it writes ``tests/golden/`` and
the samples in ``docs/formats.md`` anew. Read the difference before you commit it.
"""

from __future__ import annotations

import io
import json
import re
from dataclasses import fields, replace
from importlib.resources import files
from pathlib import Path

import av
import pytest
from jsonschema import Draft202012Validator

from transcribe_mcp.domain.transcript import Notice, Segment, Transcript, Turn, Word
from transcribe_mcp.errors import UnknownNameError
from transcribe_mcp.formats import FORMATS, FormatOptions, SubtitleRules, render

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden"
DOCS = ROOT / "docs" / "formats.md"
VARIANTS = {"highlight.vtt": FormatOptions(highlight_words=True, note=True)}


def said(
    start: float, text: str, speaker: str | None, *, word_s: float = 0.3, gap_s: float = 0.02
) -> Segment:
    words = []
    for token in re.findall(r"\s*\S+", text) if " " in text else text:
        words.append(Word(round(start, 3), round(start + word_s, 3), token, 0.9, speaker))
        start += word_s + gap_s
    quality = {
        "avg_logprob": -0.21,
        "no_speech_prob": 0.01,
        "compression_ratio": 1.5,
        "temperature": 0.0,
    }
    return Segment(words[0].start, words[-1].end, text, tuple(words), "en", speaker, **quality)


def sample() -> Transcript:
    return Transcript(
        segments=(
            said(0.4, " Good morning.", "Anna"),
            said(
                1.3,
                (
                    " Today we ask why rain falls in drops, how large they grow, and who "
                    "measured them first."
                ),
                "Anna",
            ),
            said(7.2, " Is 3 < 5 & *true* --> yes?", "Bert"),
            said(12.5, "「東京は雨です。」", "Bert", word_s=0.2),
            Segment(
                17.0,
                20.5,
                " Thank you for listening, and see you next week, I hope.",
                (),
                "en",
                "Anna",
            ),
        ),
        duration=22.0,
        language="en",
        language_probability=0.9876,
        engine="fake",
        model="fake",
        device="cpu",
        compute_type="float32",
        source="shows/rain_and_drops #1.flac",
        warnings=(Notice("words_missing", "One segment has no word timestamps."),),
        timings={"decode": 0.1, "total": 0.5},
        versions={"transcribe-mcp": "0.1.0"},
    )


def with_turns(transcript: Transcript) -> Transcript:
    turns = (
        Turn(0.4, 7.35, "Anna Ray", overlap=True),
        Turn(7.2, 14.46, "Bert", overlap=True),
        Turn(17.0, 20.5, "Anna Ray"),
    )
    return replace(transcript, turns=turns)


def transcript_of(*texts: str, speaker: str | None = None) -> Transcript:
    segments = tuple(
        Segment(5 * i, 5 * i + 4, text, (), None, speaker) for i, text in enumerate(texts)
    )
    return Transcript(segments, 5 * len(texts), None, None, "fake", "fake", "cpu", "float32")


def rendered() -> dict[str, str]:
    """Golden file name -> content."""
    plain = {f"sample{row.extension}": render(sample(), name) for name, row in FORMATS.items()}
    plain["sample.rttm"] = render(with_turns(sample()), "rttm")
    plain["short.json"] = render(replace(sample(), segments=sample().segments[:1]), "json")
    return plain | {
        f"sample.{name}": render(sample(), "vtt", options) for name, options in VARIANTS.items()
    }


@pytest.mark.parametrize("name", rendered())
def test_a_format_writes_its_golden_file(name: str) -> None:
    assert rendered()[name] == (GOLDEN / name).read_bytes().decode()


def test_no_golden_file_is_left_of_a_format_that_is_gone() -> None:
    assert {path.name for path in GOLDEN.iterdir() if path.is_file()} == rendered().keys()


def with_samples(document: str) -> str:
    """The document with every fenced block after ``<!-- sample: NAME -->`` made anew."""

    def fill(match: re.Match[str]) -> str:
        name = match[1]
        return f"<!-- sample: {name} -->\n````{name.rsplit('.')[-1]}\n{rendered()[name]}````\n"

    return re.sub(r"<!-- sample: (\S+) -->\n````.*?````\n", fill, document, flags=re.DOTALL)


def test_the_documented_samples_are_what_is_written() -> None:
    document = DOCS.read_text(encoding="utf-8")
    assert with_samples(document) == document
    assert set(re.findall(r"<!-- sample: (\S+) -->", document)) == rendered().keys() - {
        "sample.json"
    }


def table_rows() -> str:
    rows = [
        f"| `{n}` | `{row.extension}` | `{row.media_type}` | {row.summary} |"
        for n, row in FORMATS.items()
    ]
    return "\n".join(rows)


def test_the_documented_table_lists_every_format() -> None:
    assert table_rows() in DOCS.read_text(encoding="utf-8")


def recorded(document: str) -> str:
    """The document with the table of all formats, and a sample of each."""
    head, rest = document.split("\n\n| name", 1)
    table, rest = rest.split("\n\n", 1)
    lines = table.splitlines()[:2]
    document = f"{head}\n\n| name{lines[0]}\n{lines[1]}\n{table_rows()}\n\n{rest}"
    for name in sorted(rendered().keys() - {"sample.json"}):
        if (mark := f"<!-- sample: {name} -->") not in document:
            document += f"\n{mark}\n````\n````\n"
    return with_samples(document)


def test_the_documented_page_is_what_would_be_recorded() -> None:
    document = DOCS.read_text(encoding="utf-8")
    assert recorded(document) == document
    without = document.replace("| `md` |", "| `gone` |").replace("sample: sample.md", "")
    assert "| `gone` |" not in recorded(without) and "sample: sample.md -->" in recorded(without)


def test_the_documented_rules_are_the_defaults() -> None:
    documented = re.findall(
        r"^\| `(\w+)` \| ([\d./]+) \|", DOCS.read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    defaults = {"5/6": 5 / 6}
    assert {name: defaults.get(value) or float(value) for name, value in documented} == {
        field.name: field.default for field in fields(SubtitleRules)
    }


@pytest.mark.parametrize("name", FORMATS)
def test_a_transcript_without_speech_is_a_valid_file(name: str) -> None:
    text = render(transcript_of(), name)
    assert {"txt": "", "timed": "", "srt": "", "vtt": "WEBVTT\n", "tsv": "start\tend\ttext\n"}.get(
        name, text
    ) == text
    assert "\n\n\n" not in text


def test_json_fits_the_published_schema() -> None:
    schema = json.loads(
        files("transcribe_mcp").joinpath("domain/schema.json").read_text(encoding="utf-8")
    )
    Draft202012Validator(schema).validate(json.loads(render(sample(), "json")))
    assert Transcript.loads(render(sample(), "json")) == sample()


@pytest.mark.parametrize("name", ["srt", "vtt"])
def test_ffmpeg_reads_the_cues_that_were_written(name: str) -> None:
    expected = re.findall(r"(\d\d):(\d\d):(\d\d)[.,](\d{3}) -->", render(sample(), name))
    starts_ms = [
        ((int(h) * 60 + int(m)) * 60 + int(s)) * 1000 + int(ms) for h, m, s, ms in expected
    ]
    with av.open(
        io.BytesIO(render(sample(), name).encode()), format={"vtt": "webvtt"}.get(name, name)
    ) as container:
        packets = [packet for packet in container.demux() if packet.size]
    assert [round(1000 * float(packet.pts * packet.time_base)) for packet in packets] == starts_ms
    assert b"Good morning." in bytes(packets[0])


HOSTILE = "a\n\n00:00:01.000 --> 00:00:02.000\r\n<b>&\tx\u2028y\x00\x1b[0m --->"


@pytest.mark.parametrize("name", ["txt", "timed", "srt", "vtt", "tsv", "md"])
def test_text_that_looks_like_syntax_stays_text(name: str) -> None:
    harmless = render(transcript_of("a b"), name)
    hostile = render(transcript_of(HOSTILE), name)
    assert not set("\0\x1b\r\u2028") & set(hostile)
    assert hostile.count("-->") == harmless.count("-->") + (
        2 if name in ("txt", "timed", "tsv") else 0
    )
    assert len(hostile.split("\n\n")) == len(harmless.split("\n\n"))


def test_markup_is_escaped_where_the_format_has_escapes() -> None:
    transcript = transcript_of(
        " <script>alert(1)</script> & [x](y) *b* `c` | $d$", speaker="A > <b>"
    )
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; [x](y)" in render(
        transcript, "vtt"
    ).replace("\n", " ")
    assert "<v A &gt; &lt;b&gt;>" in render(transcript, "vtt")
    assert r"\<script\>alert(1)\</script\> \& \[x\](y) \*b\* \`c\` \| \$d\$" in render(
        transcript, "md"
    )


def test_a_segment_in_which_the_speaker_changes_is_written_by_speaker() -> None:
    words = (
        Word(0, 1, " Yes?", None, "Anna"),
        Word(1, 1.5, " Well."),
        Word(1.5, 2, " No!", None, "Bert"),
    )
    transcript = Transcript(
        (Segment(0, 2, " Yes? Well. No!", words),), 2, "en", 1, "fake", "fake", "cpu", "float32"
    )
    assert render(transcript, "txt") == "Anna: Yes? Well.\nBert: No!\n"
    assert "<v Bert>No!" in render(transcript, "vtt")
    assert re.findall("(?:Anna|Bert): .*", render(transcript, "srt")) == [
        "Anna: Yes? Well.",
        "Bert: No!",
    ]


def test_word_highlights_rise_inside_their_cue() -> None:
    for cue in render(sample(), "vtt", FormatOptions(highlight_words=True)).split("\n\n")[1:]:
        start, end, *stamps = re.findall(r"\d\d:\d\d:\d\d\.\d{3}", cue)
        assert sorted({start, *stamps, end}) == [start, *stamps, end]


def test_timed_text_begins_each_sentence_with_its_time_and_costs_little_more_than_the_text() -> (
    None
):
    starts = (0.0, 59.99, 754.2, 3599.9, 3600.0, 90_061.5)
    segments = tuple(
        Segment(start, start + 0.01, " A sentence as people say them.") for start in starts
    )
    transcript = Transcript(segments, 100_000.0, "en", 1, "fake", "fake", "cpu", "float32")
    lines = render(transcript, "timed").splitlines()
    assert [line.partition(" ")[0] for line in lines] == [
        "[0:00]", "[0:59]", "[12:34]", "[59:59]", "[1:00:00]", "[25:01:01]"
    ]  # fmt: skip
    assert [line.partition(" ")[2] for line in lines] == render(transcript, "txt").splitlines()


def test_rttm_has_the_sentences_of_channels_and_nothing_without_speakers() -> None:
    lines = render(sample(), "rttm").splitlines()
    assert lines[0] == ("SPEAKER rain_and_drops_#1 1 0.400 0.620 <NA> <NA> Anna <NA> <NA>")
    assert {len(line.split(" ")) for line in lines} == {10}
    assert render(transcript_of("Nobody knows."), "rttm") == ""


def test_a_file_name_that_is_no_text_can_be_written() -> None:
    transcript = Transcript(
        (), 1, None, None, "fake", "fake", "cpu", "float32", source="b\udcff.wav"
    )
    assert json.loads(render(transcript, "json").encode())["source"] == "b\udcff.wav"
    assert render(transcript, "md").encode().startswith(b"# b")


def test_an_unknown_format_is_an_error_that_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="'strt'") as caught:
        render(sample(), "strt")
    assert caught.value.hint == f"did you mean srt? formats: {', '.join(FORMATS)}"


if __name__ == "__main__":
    for golden_name, content in rendered().items():
        (GOLDEN / golden_name).write_bytes(content.encode())
    DOCS.write_bytes(recorded(DOCS.read_text(encoding="utf-8")).encode())
