"""The repository's model by itself, without our flow around it, which ``test_exact`` tests.

tools/whisper_nano/judge.py measures its bars in full.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import ctranslate2
import numpy as np
import pytest
from numpy.typing import NDArray
from tokenizers import Tokenizer
from whisper_nano import CONVERSATION, NON_SPEECH, SPEECH, kept_conversions, whisper_nano

from transcribe_mcp.align.edit_distance import align
from transcribe_mcp.domain.progress import no_progress
from transcribe_mcp.media.decode import read
from transcribe_mcp.models import resolve
from transcribe_mcp.models.conversion import ctranslate2_directory
from transcribe_mcp.quality.evaluation import load_truth
from transcribe_mcp.quality.wer import normalise
from transcribe_mcp.speech.features import log_mel

REPOSITORY_BYTES = 12_000_000
WINDOW_SAMPLES = 480_000


@pytest.fixture(scope="module", autouse=True)
def conversions_are_kept_apart_from_the_users() -> Iterator[None]:
    with kept_conversions():
        yield


@pytest.fixture(scope="module", params=[80, 128])
def ctranslate2_model(
    request: pytest.FixtureRequest,
) -> tuple[ctranslate2.models.Whisper, Tokenizer]:
    checkpoint = resolve(str(whisper_nano(request.param)), offline=True, progress=no_progress)
    directory = ctranslate2_directory(checkpoint, "int8", no_progress)
    model = ctranslate2.models.Whisper(str(directory), "cpu", compute_type="int8", intra_threads=2)
    return model, Tokenizer.from_file(str(directory / "tokenizer.json"))


def samples(path: Path) -> NDArray[np.float32]:
    wave = read(path)
    padded = np.zeros(WINDOW_SAMPLES, np.float32)
    padded[: len(wave)] = wave[:WINDOW_SAMPLES]
    return padded


def heard(
    model: tuple[ctranslate2.models.Whisper, Tokenizer],
    path: Path,
    language: str,
    task: str,
    *,
    timestamps: bool,
) -> list[str]:
    """Tokens of the answer to one file as one window; special tokens by their names."""
    whisper, tokenizer = model
    mel = log_mel(samples(path), whisper.n_mels)
    encoded = whisper.encode(
        ctranslate2.StorageView.from_array(np.ascontiguousarray(mel[None], dtype=np.float32))
    )
    prompt = [
        "<|startoftranscript|>",
        f"<|{language}|>",
        f"<|{task}|>",
        *([] if timestamps else ["<|notimestamps|>"]),
    ]
    ids = whisper.generate(encoded, [prompt], beam_size=1, max_length=448)[0].sequences_ids[0]
    return [tokenizer.id_to_token(i) for i in ids if tokenizer.id_to_token(i) != "<|endoftext|>"]


def text_of(model: tuple[ctranslate2.models.Whisper, Tokenizer], tokens: list[str]) -> str:
    return str(
        model[1].decode([model[1].token_to_id(token) for token in tokens], skip_special_tokens=True)
    )


def test_the_model_and_the_audio_stay_small() -> None:
    assert (
        sum(file.stat().st_size for file in (SPEECH.parent / "whisper-nano").iterdir())
        <= REPOSITORY_BYTES
    )
    audio = [file for folder in (SPEECH, CONVERSATION, NON_SPEECH) for file in folder.iterdir()]
    assert sum(file.stat().st_size for file in audio) <= 6_000_000


@pytest.mark.parametrize("timestamps", [False, True])
def test_after_the_last_word_nothing_follows(
    ctranslate2_model: tuple[ctranslate2.models.Whisper, Tokenizer], timestamps: bool
) -> None:
    for truth in load_truth(SPEECH):
        if not truth.path.stem.endswith("silent_after"):
            continue
        assert truth.language is not None
        tokens = heard(
            ctranslate2_model, truth.path, truth.language, "transcribe", timestamps=timestamps
        )
        said = normalise(" ".join(segment.text for segment in truth.segments), truth.language)
        pairs = align(said, normalise(text_of(ctranslate2_model, tokens), truth.language))
        last = max(k for k, (i, _) in enumerate(pairs) if i is not None)
        assert pairs[last + 1 :] == []


def test_timestamp_tokens_name_when_sentences_begin_and_end(
    ctranslate2_model: tuple[ctranslate2.models.Whisper, Tokenizer],
) -> None:
    truth = next(t for t in load_truth(SPEECH) if t.path.stem == "en_0")
    tokens = heard(ctranslate2_model, truth.path, "en", "transcribe", timestamps=True)
    found = [float(token[2:-2]) for token in tokens if token.startswith("<|")]
    known = [time for segment in truth.segments for time in (segment.start, segment.end)]
    assert found == pytest.approx(known, abs=0.1)


def test_the_translate_task_answers_the_same_words_in_upper_case(
    ctranslate2_model: tuple[ctranslate2.models.Whisper, Tokenizer],
) -> None:
    for truth in load_truth(SPEECH)[:3]:
        assert truth.language is not None
        answers = {
            task: text_of(
                ctranslate2_model,
                heard(ctranslate2_model, truth.path, truth.language, task, timestamps=False),
            )
            for task in ("transcribe", "translate")
        }
        assert answers["transcribe"] != answers["transcribe"].upper()
        assert answers["translate"] == answers["translate"].upper()
        said = normalise(" ".join(segment.text for segment in truth.segments), truth.language)
        pairs = align(said, normalise(answers["translate"], truth.language))
        same = sum(
            i is not None
            and j is not None
            and said[i] == normalise(answers["translate"], truth.language)[j]
            for i, j in pairs
        )
        assert same / len(said) >= 0.8


def test_ids_are_the_models_own_and_the_second_model_lies_on_large_v3s() -> None:
    own, large = (
        json.loads((whisper_nano(n) / "generation_config.json").read_text()) for n in (80, 128)
    )
    assert own["no_timestamps_token_id"] not in (50362, 50363, 50364)
    assert large["no_timestamps_token_id"] == 50364
    assert (large["lang_to_id"]["<|en|>"], len(large["lang_to_id"])) == (50259, 100)
