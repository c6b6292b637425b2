"""The repository's model through the whole flow gives what it gave before, and what was said.

``tests/golden/whisper-nano/`` holds the text and the times it gave, one file a compute type.
Processors add floats in different orders, so a few words and a few times may differ; a regression
differs in more. After a change that is meant, run ``python tests/test_exact.py``, which writes them
anew, and read the difference. Both there and here that is done in a process of its own with the
instructions of ten years ago: with newer ones, products of 8 bits are rounded otherwise.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import pytest
from slow import SLOW
from whisper_nano import (
    CONVERSATION,
    NON_SPEECH,
    SPEECH,
    join_speech,
    kept_conversions,
    speech_truths,
    whisper_nano,
)

from transcribe_mcp.align.edit_distance import align
from transcribe_mcp.domain.options import Options
from transcribe_mcp.domain.transcript import Segment, Transcript
from transcribe_mcp.engines import EngineRequest, Recognizer, load_recognizer
from transcribe_mcp.pipeline.offline import transcribe
from transcribe_mcp.quality.evaluation import Score, load_truth, score

GOLDEN = Path(__file__).parent / "golden" / "whisper-nano"
BOTH = ("float32", "int8")
COMPUTE_TYPES = BOTH if SLOW else ("int8",)
INSTRUCTIONS = {"ONEDNN_MAX_CPU_ISA": "AVX2"}  # read once in a process
GREEDY = Options(temperatures=(0.0,))  # no sampling: the text is the model's alone

CHANGED_WORDS = 3  # of 850, punctuation and case included
SAME_START_S = 0.04  # two of the encoder's frames
AFTER_THE_END_S = 0.1
BARS = {"en": 0.06, "de": 0.10, "es": 0.10}  # word error rates
# By order of names a noisy recording would repeat the sentence before it, which this small model
# answers with a loop.
CLEAN = {language: [f"{language}_{i}" for i in range(5)] for language in BARS}


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence as the golden file keeps it: no quality figures, times to 10 ms."""

    text: str
    starts: tuple[float, ...]  # of its words
    end: float

    @staticmethod
    def of(segment: Segment) -> Sentence:
        return Sentence(
            segment.text.strip(),
            tuple(round(word.start, 2) for word in segment.words),
            round(segment.end, 2),
        )


Golden = dict[str, list[Sentence]]


@pytest.fixture(scope="module", params=COMPUTE_TYPES)
def compute_type(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def engine(compute_type: str) -> Iterator[Recognizer]:
    with kept_conversions():
        engine = load(compute_type)
        yield engine
        engine.close()


@pytest.fixture(scope="module")
def transcripts(found_anew: Path, compute_type: str) -> dict[str, Transcript]:
    files = (found_anew / compute_type).glob("*.json")
    return {file.stem: Transcript.loads(file.read_text(encoding="utf-8")) for file in files}


@pytest.fixture(scope="module")
def found_anew(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("golden")
    subprocess.run([sys.executable, __file__, str(folder)], check=True)
    return folder


@pytest.fixture(scope="module")
def scores(transcripts: Mapping[str, Transcript]) -> dict[str, Score]:
    truths = {
        truth.path.stem: truth for folder in (SPEECH, CONVERSATION) for truth in load_truth(folder)
    }
    return {name: score(truths[name], transcript).score for name, transcript in transcripts.items()}


def load(compute_type: str) -> Recognizer:
    return load_recognizer(
        EngineRequest(
            "ctranslate2", str(whisper_nano()), "cpu", compute_type, threads=2, offline=True
        )
    )


def transcribe_all(engine: Recognizer) -> dict[str, Transcript]:
    truths = [*load_truth(SPEECH), *load_truth(CONVERSATION)]
    return {truth.path.stem: transcribe(truth.path, engine, GREEDY) for truth in truths}


def golden_of(transcripts: Mapping[str, Transcript]) -> Golden:
    return {
        name: [Sentence.of(segment) for segment in t.segments] for name, t in transcripts.items()
    }


def read_golden(compute_type: str, folder: Path = GOLDEN) -> Golden:
    rows = json.loads((folder / f"{compute_type}.json").read_text(encoding="utf-8"))
    return {
        name: [Sentence(text, tuple(starts), end) for text, starts, end in row]
        for name, row in rows.items()
    }


def write_golden(compute_type: str, golden: Golden, folder: Path) -> None:
    """A line a sentence: its text, the starts of its words, its end."""
    files = []
    for name, sentences in golden.items():
        rows = [
            json.dumps([row.text, row.starts, row.end], ensure_ascii=False) for row in sentences
        ]
        files.append(f'"{name}": [\n ' + ",\n ".join(rows) + "\n]")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{compute_type}.json").write_bytes(("{\n" + ",\n".join(files) + "\n}\n").encode())


def timed_words(sentences: list[Sentence]) -> list[tuple[str, float]]:
    return [pair for row in sentences for pair in zip(row.text.split(), row.starts, strict=True)]


# -- as before -------------------------------------------------------------------------------------


@pytest.mark.parametrize("compute_type", COMPUTE_TYPES)
def test_the_words_and_their_times_are_those_of_before(found_anew: Path, compute_type: str) -> None:
    found, golden = read_golden(compute_type, found_anew), read_golden(compute_type)
    changed: list[tuple[str, str | None, str | None]] = []
    shifts_s: list[float] = []

    assert found.keys() == golden.keys()
    for name, sentences in golden.items():
        before, now = timed_words(sentences), timed_words(found[name])
        for i, j in align([text for text, _ in before], [text for text, _ in now]):
            if i is None or j is None or before[i][0] != now[j][0]:
                changed.append(
                    (name, None if i is None else before[i][0], None if j is None else now[j][0])
                )
            else:
                shifts_s.append(abs(before[i][1] - now[j][1]))

    assert len(changed) <= CHANGED_WORDS, changed
    assert statistics.mean(shift <= SAME_START_S for shift in shifts_s) >= 0.98


@pytest.mark.parametrize("compute_type", COMPUTE_TYPES)
def test_sentences_are_cut_as_before(found_anew: Path, compute_type: str) -> None:
    found, golden = read_golden(compute_type, found_anew), read_golden(compute_type)

    other = [name for name in golden if len(found[name]) != len(golden[name])]
    shifts_s = [
        abs(before.end - now.end)
        for name in golden.keys() - other
        for before, now in zip(golden[name], found[name], strict=True)
    ]

    assert len(other) <= 1, other
    assert statistics.mean(shift <= SAME_START_S for shift in shifts_s) >= 0.95


# -- as it was said --------------------------------------------------------------------------------


def test_what_was_said_is_understood_in_every_language(scores: Mapping[str, Score]) -> None:
    for language, bar in BARS.items():
        whole = sum(
            (judged for name, judged in scores.items() if name.startswith(language)), Score()
        )
        assert whole.word_error_rate is not None
        assert whole.word_error_rate <= bar, (language, whole)
    assert scores["three_voices"].word_error_rate == pytest.approx(0.0, abs=0.02)


def test_every_language_is_recognised_and_nothing_is_missed_or_made_up(
    scores: Mapping[str, Score],
) -> None:
    whole = sum(scores.values(), Score())

    assert whole.languages == len(scores) == 25
    assert whole.language_accuracy == 1
    assert whole.missed_speech_s == 0
    assert whole.outside_speech_words == 0


def test_every_word_is_timed_in_order_where_it_was_said(scores: Mapping[str, Score]) -> None:
    whole = sum(scores.values(), Score())
    errors_s = [abs(error) for error in whole.start_errors]

    assert len(errors_s) > 800
    assert whole.untimed_words == whole.disordered_words == 0
    assert statistics.median(errors_s) <= 0.02
    assert statistics.mean(error <= 0.1 for error in errors_s) >= 0.97


# -- where nothing is said -------------------------------------------------------------------------


@pytest.mark.parametrize("vad", [True, False])
def test_noise_and_silence_give_no_words_with_and_without_voice_detection(
    engine: Recognizer, vad: bool
) -> None:
    truths = load_truth(NON_SPEECH)
    transcripts = [transcribe(truth.path, engine, replace(GREEDY, vad=vad)) for truth in truths]

    assert sum(truth.duration or 0 for truth in truths) > 120
    assert {
        truth.path.stem: t.text for truth, t in zip(truths, transcripts, strict=True) if t.text
    } == {}
    codes = {
        truth.path.stem: [notice.code for notice in t.warnings]
        for truth, t in zip(truths, transcripts, strict=True)
    }
    assert codes.pop("03_brown") == ["rumble_removed", "no_speech"]
    assert set(map(tuple, codes.values())) == {("no_speech",)}


@pytest.mark.parametrize("vad", [True, False])
@pytest.mark.parametrize("name", ["en_silent_after", "de_silent_after", "en_pauses"])
def test_nothing_follows_the_last_word_in_the_silence_after_it(
    engine: Recognizer, name: str, vad: bool
) -> None:
    truth = speech_truths()[name]
    end = truth.segments[-1].end

    transcript = transcribe(truth.path, engine, replace(GREEDY, vad=vad))

    assert end is not None and truth.duration is not None and end < truth.duration - 3
    assert score(truth, transcript).score.insertions == 0
    assert [word for word in transcript.words if word.start > end + AFTER_THE_END_S] == []


# -- what is asked of it ---------------------------------------------------------------------------


def test_vocabulary_spells_a_word_that_was_misheard(
    engine: Recognizer, transcripts: Mapping[str, Transcript]
) -> None:
    plain = transcripts["es_1"].text

    helped = transcribe(SPEECH / "es_1.flac", engine, replace(GREEDY, vocabulary=("pizarra",))).text

    assert "pisarra" in plain
    assert helped == plain.replace("pisarra", "pizarra")


def test_a_prompt_is_heeded_and_leaves_clear_speech_as_it_is(
    engine: Recognizer, transcripts: Mapping[str, Transcript]
) -> None:
    plain = transcripts["en_3"]

    prompted = transcribe(
        SPEECH / "en_3.flac", engine, replace(GREEDY, prompt="IN CAPITALS. ALL OF IT.")
    )

    assert prompted.text == plain.text
    assert prompted.segments[0].avg_logprob != pytest.approx(
        plain.segments[0].avg_logprob, abs=1e-4
    )


@pytest.mark.parametrize("name", ["en_noise", "de_2", "es_1"])
def test_translation_of_this_model_is_the_same_words_in_upper_case(
    engine: Recognizer, transcripts: Mapping[str, Transcript], name: str
) -> None:
    transcript = transcribe(SPEECH / f"{name}.flac", engine, replace(GREEDY, task="translate"))
    said, shouted = transcripts[name].text.upper().split(), transcript.text.split()

    assert transcript.task == "translate"
    assert transcript.text == transcript.text.upper()
    assert (
        sum(i is None or j is None or said[i] != shouted[j] for i, j in align(said, shouted)) <= 3
    )
    assert len(transcript.words) == len(shouted)


# -- long recordings -------------------------------------------------------------------------------


@pytest.mark.parametrize("language", CLEAN)
def test_a_long_recording_is_understood_no_worse_than_its_parts(
    engine: Recognizer, scores: Mapping[str, Score], language: str, tmp_path: Path
) -> None:
    truth = join_speech(tmp_path / "joined.wav", CLEAN[language])
    apart = sum((scores[name] for name in CLEAN[language]), Score()).word_error_rate

    transcript = transcribe(truth.path, engine, GREEDY)

    judged = score(truth, transcript).score
    assert transcript.language == language
    assert judged.word_error_rate is not None and apart is not None
    assert judged.word_error_rate <= apart + 0.02
    assert judged.missed_speech_s == judged.outside_speech_words == judged.untimed_words == 0
    assert all(before.end <= after.start + 1e-6 for before, after in pairwise(transcript.words))


def test_multilingual_gives_every_sentence_of_a_joined_recording_its_language(
    engine: Recognizer, tmp_path: Path
) -> None:
    names = [name for language in ("en", "de", "es") for name in CLEAN[language][:3]]
    truth = join_speech(tmp_path / "three.wav", names)

    transcript = transcribe(truth.path, engine, replace(GREEDY, multilingual=True))

    assert [segment.language for segment in transcript.segments] == [
        said.language for said in truth.segments
    ]
    for found, said in zip(transcript.segments, truth.segments, strict=True):
        assert found.start == pytest.approx(said.start, abs=0.3)
    rate = score(truth, transcript).score.word_error_rate
    assert rate is not None and rate <= 0.05


def main(folder: Path | None) -> None:
    """Write the golden files anew; or, into a folder, what is found now, with the transcripts that
    it was made of.
    """
    os.environ.update(INSTRUCTIONS)
    with kept_conversions():
        for compute_type in COMPUTE_TYPES if folder else BOTH:
            engine = load(compute_type)
            found = transcribe_all(engine)
            engine.close()
            write_golden(compute_type, golden_of(found), folder or GOLDEN)
            for name, transcript in found.items() if folder else ():
                path = (folder or GOLDEN) / compute_type / f"{name}.json"
                path.parent.mkdir(exist_ok=True)
                path.write_text(transcript.dumps(), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else None)
