"""The tokens of a Whisper model, looked up by name because IDs differ between models."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer

from ..domain.transcript import Notice
from ..errors import ModelFormatError
from ..speech.regions import Window
from . import DecodingOptions

CONTEXT_TOKENS = 448  # n_text_ctx of every Whisper model
PROMPT_TOKENS = (
    CONTEXT_TOKENS // 2 - 1
)  # as in openai-whisper: half the context, minus its start token
SPECIAL_TOKEN = re.compile(r"<\|([^|]*)\|>")
LANGUAGE_CODE = re.compile(r"[a-z]{2,3}")


class Vocabulary:
    """Text tokens and special tokens of one model."""

    def __init__(self, directory: Path, *, multilingual: bool) -> None:
        try:
            self._tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        except Exception as error:  # tokenizers raises nothing narrower
            raise ModelFormatError(
                f"{directory}: tokenizer.json cannot be read: {error}",
                hint="use a model directory with the tokenizer.json that belongs to it",
            ) from error
        self._tokenizer.no_truncation()
        self._multilingual = multilingual
        self._texts: dict[int, str] = {}  # of single tokens
        self.start = self.id("<|startoftranscript|>")
        self.end_of_text = self.id("<|endoftext|>")
        self._no_timestamps = self.id("<|notimestamps|>")
        self.timestamp_begin = self._no_timestamps + 1
        ids = self._tokenizer.get_vocab().items()
        special = {
            match[1]: number for token, number in ids if (match := SPECIAL_TOKEN.fullmatch(token))
        }
        self.special = frozenset(special.values())
        self.languages = (
            tuple(sorted(filter(LANGUAGE_CODE.fullmatch, special))) if multilingual else ("en",)
        )

    @property
    def no_speech(self) -> int:
        """Older tokenizers name it no captions."""
        number: int | None = self._tokenizer.token_to_id("<|nospeech|>")
        return self.id("<|nocaptions|>") if number is None else number

    def id(self, token: str) -> int:
        number: int | None = self._tokenizer.token_to_id(token)
        if number is None:
            raise ModelFormatError(
                f"the model's tokenizer has no token {token}", hint="is it a Whisper model?"
            )
        return number

    def is_text(self, token: int) -> bool:
        """Whether it is a text token. Not every tokenizer lists timestamps, but they come last."""
        return token not in self.special and token < self.timestamp_begin

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids if text else []
        return ids

    def decode(self, tokens: Sequence[int]) -> str:
        if len(tokens) == 1 and (known := self._texts.get(tokens[0])) is not None:
            return known  # words are built token by token, and most tokens recur
        text: str = self._tokenizer.decode(list(tokens))
        if len(tokens) == 1:
            self._texts[tokens[0]] = text
        return text

    def start_sequence(self, language: str, task: str, *, timestamps: bool = False) -> list[int]:
        quiet = [] if timestamps else [self._no_timestamps]
        if not self._multilingual:
            return [self.start, *quiet]
        return [self.start, self.id(f"<|{language}|>"), self.id(f"<|{task}|>"), *quiet]

    def prompt(
        self, language: str, options: DecodingOptions, known: Sequence[int] = ()
    ) -> list[int]:
        """The decoder's prompt: preceding text if any, language and task, and the known beginning
        of the window's text.
        """
        before = self.encode(prompt_text(options))
        before = before[max(0, len(before) + len(known) - PROMPT_TOKENS) :]
        opening = [self.id("<|startofprev|>"), *before] if before else []
        start = self.start_sequence(language, options.task, timestamps=options.timestamps)
        return [*opening, *start, *known]

    def known(self, window: Window) -> list[int]:
        """The tokens of a window's known beginning."""
        return self.encode(window.known.text)[-PROMPT_TOKENS:] if window.known else []

    def notices(self, options: DecodingOptions) -> tuple[Notice, ...]:
        """The notice that vocabulary and prompt are too long."""
        requested = len(self.encode(prompt_text(options)))
        if requested <= PROMPT_TOKENS:
            return ()
        message = (
            f"vocabulary and prompt take {requested} tokens; only the last {PROMPT_TOKENS} are used"
        )
        return (Notice("prompt_truncated", message),)


def prompt_text(options: DecodingOptions) -> str:
    """The vocabulary is a list in front; the prompt comes last, where it has the most effect."""
    parts = [", ".join(options.vocabulary), options.prompt.strip()]
    text = " ".join(part for part in parts if part)
    return f" {text}" if text else ""
