"""The peers of ``gpu.py``, with the same weights, the same audio and the same number of tokens. See
there.
"""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from common import SAMPLE_RATE_HZ, Samples
from gpu_parts import WINDOW_S, Figures, Setup, attempt, seconds
from random_whisper import PROMPT_TOKENS, TOKENS, shape_of

from transcribe_mcp.speech.features import WINDOW_FRAMES


def _mel(name: str, batch: int) -> np.ndarray:
    shape = (batch, shape_of(name).n_mels, WINDOW_FRAMES)
    return np.random.default_rng(1).standard_normal(shape, dtype=np.float32)


def _fitting(batches: tuple[int, ...], one: Callable[[int], float]) -> Figures:
    """Each batch size that fits into memory: seconds and times real time."""
    found: Figures = {}
    for batch in batches:

        def measured(batch: int = batch) -> Figures:
            taken = one(batch)
            return {"whole_s": taken, "times_real_time": batch * WINDOW_S / taken}

        found[f"batch {batch}"] = attempt(measured)  # the larger ones may not fit
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return found


def _generate(model: Any, features: torch.Tensor, mask: torch.Tensor) -> Any:
    with torch.inference_mode():
        return model.generate(
            features, attention_mask=mask, language="en", task="transcribe",
            return_timestamps=False, do_sample=False, num_beams=1,
        )  # fmt: skip


def transformers(setup: Setup, name: str, batches: tuple[int, ...]) -> Figures:
    """``generate`` in float16 with sdpa, greedy."""
    module = importlib.import_module("transformers")
    kind = torch.float32 if setup.device == "cpu" else torch.float16
    model = module.WhisperForConditionalGeneration.from_pretrained(
        setup.model(name), dtype=kind, attn_implementation="sdpa"
    ).to(setup.device)

    def one(batch: int) -> float:
        features = torch.from_numpy(_mel(name, batch)).to(setup.device, kind)
        mask = torch.ones(batch, WINDOW_FRAMES, device=setup.device)
        generate = partial(_generate, model, features, mask)
        n_tokens = generate().shape[1]
        assert TOKENS <= n_tokens <= TOKENS + PROMPT_TOKENS + 1, f"{n_tokens} tokens are no measure"
        return seconds(generate, 1 if name == "large-v3" else 2, 0)

    return _fitting(batches, one)


def _encode_and_generate(model: Any, features: Any, prompts: list[list[int]]) -> list[Any]:
    encoded = model.encode(features, to_cpu=False)
    found: list[Any] = model.generate(encoded, prompts, beam_size=1, max_length=448)
    return found


def ctranslate2(setup: Setup, name: str, batches: tuple[int, ...]) -> Figures:
    """``encode`` and ``generate`` in float16 (int8 on a CPU), greedy, the encoder's output left on
    the device.
    """
    module = importlib.import_module("ctranslate2")
    on_cpu = setup.device == "cpu"
    directory = json.loads((setup.folder / "ctranslate2.json").read_text(encoding="utf-8"))[name]
    model = module.models.Whisper(
        directory, device="cpu" if on_cpu else "cuda", compute_type="int8" if on_cpu else "float16"
    )
    tokens = importlib.import_module("tokenizers").Tokenizer.from_file(
        f"{directory}/tokenizer.json"
    )
    prompt = [
        tokens.token_to_id(f"<|{t}|>")
        for t in ("startoftranscript", "en", "transcribe", "notimestamps")
    ]

    def one(batch: int) -> float:
        features = module.StorageView.from_array(_mel(name, batch))
        generate = partial(_encode_and_generate, model, features, [prompt] * batch)
        counts = {len(result.sequences_ids[0]) for result in generate()}
        assert counts == {TOKENS}, f"windows of {counts} tokens are no measure"
        return seconds(generate, 2, 0)

    return _fitting(batches, one)


def faster_whisper(setup: Setup, name: str) -> Figures:
    """Its batched pipeline over the decoded hour, with words, with and without."""
    module = importlib.import_module("faster_whisper")
    directory = json.loads((setup.folder / "ctranslate2.json").read_text(encoding="utf-8"))[name]
    on_cpu = setup.device == "cpu"
    loaded = module.WhisperModel(
        directory, device="cpu" if on_cpu else "cuda", compute_type="int8" if on_cpu else "float16"
    )
    batched = module.BatchedInferencePipeline(loaded)
    samples = setup.hour()

    def run(audio: Samples, batch: int) -> tuple[float, int]:
        start = time.perf_counter()
        segments, _ = batched.transcribe(
            audio,
            language="en",
            beam_size=1,
            temperature=0.0,
            word_timestamps=True,
            batch_size=batch,
        )
        words = sum(len(segment.words) for segment in segments)
        return time.perf_counter() - start, words

    figures: Figures = {}
    run(samples[: 240 * SAMPLE_RATE_HZ], 8)
    for batch in (16, 32):

        def measured(batch: int = batch) -> Figures:
            taken, words = run(samples, batch)
            return {"s": taken, "words": words}

        figures[f"batch {batch}"] = attempt(measured)
    return figures
