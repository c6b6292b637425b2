"""Edits of a transcript: of its sentences and of their speakers, applied one after the other."""

from __future__ import annotations

import json
import unicodedata
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, NamedTuple

from ..align.retiming import retimed, word_texts
from ..align.words import UNSPACED_LANGUAGES
from ..domain.speaker_labels import checked_name, composed, relabelled_segment, without_doubts
from ..domain.transcript import Segment, Transcript, Word
from ..domain.turn_edits import TurnEdits
from ..errors import UnknownNameError, UsageError
from .revisions import Edited, Outcome

MAX_OPS = 1_000
MAX_TEXT_CHARS = 5_000  # of a sentence


def apply(original: Transcript, base: Edited, ops: Sequence[Any]) -> Outcome:
    """The transcript after all ops. Each op counts segments after the preceding ops.

    Args:
        base: the revision to edit, whose times are whole milliseconds.
        ops: objects as in ``docs/web.md``, from JSON.

    Raises:
        UsageError: an invalid op, or a segment or word that does not exist.
    """
    if len(ops) > MAX_OPS:
        raise UsageError(f"there are {len(ops)} ops", hint=f"send at most {MAX_OPS} at once")
    draft = _Draft(original, base)
    for number, op in enumerate(ops, start=1):
        try:
            draft.apply(op)
        except UsageError as error:
            raise type(error)(f"op {number}: {error}", hint=error.hint) from error
        except ValueError as error:
            raise UsageError(f"op {number}: {error}", hint=_APART) from error
    return draft.outcome()


_APART = "keep these sentences separate, because another speaker talks at the same time"


class _Line(NamedTuple):
    """A segment of the draft, with speaker names after the first ``n_renames`` renames."""

    segment: Segment
    origin: int | None
    is_changed: bool = False
    n_renames: int = 0


class _Draft:
    """Applies ops. The cost of an op does not depend on the number of sentences or turns."""

    def __init__(self, original: Transcript, base: Edited) -> None:
        self._original = original
        self._base = base
        self._lines = list(map(_Line, base.transcript.segments, base.origins))
        self._turns = TurnEdits(base.transcript.turns)
        self._n_sentences = Counter(line.segment.speaker or "" for line in self._lines)
        self._names = base.names
        self._renames: list[tuple[str, str]] = []
        self._names_now: dict[tuple[str, int], str] = {}  # see ``_name_now``
        self._renamed: Mapping[str, str] = {}
        self._settled: set[str] = set()  # speakers who were named by the user

    def apply(self, op: Any) -> None:
        kind = op.get("op") if isinstance(op, dict) else None
        if not isinstance(kind, str) or kind not in _OPS:
            shown = repr(kind if isinstance(op, dict) else op)[:40]
            raise UsageError(f"there is no op {shown}", hint=f"send one of {', '.join(_OPS)}")
        method, shape = _OPS[kind]
        fields = {name: value for name, value in op.items() if name != "op"}
        if set(fields) != set(shape) or not all(shape[name](fields[name]) for name in shape):
            example = {"op": kind, **{name: _EXAMPLES[shape[name]] for name in shape}}
            hint = f"send it like {json.dumps(example, ensure_ascii=False)}"
            raise UsageError(f"this {kind} op has wrong or missing fields", hint=hint)
        method(self, *(fields[name] for name in shape))

    def outcome(self) -> Outcome:
        """
        Raises:
            UsageError: sentences of one speaker would overlap.
        """
        changed = frozenset(i for i, line in enumerate(self._lines) if line.is_changed)
        if not changed and not self._renamed:
            return Outcome(self._base)
        before = self._base.transcript
        try:
            transcript = replace(
                before,
                segments=tuple(map(self._segment, range(len(self._lines)))),
                turns=self._turns.result(),
                warnings=without_doubts(before.warnings, self._settled),
            )
        except ValueError as error:
            raise UsageError(str(error), hint=_APART) from error
        origins = tuple(line.origin for line in self._lines)
        return Outcome(Edited(transcript, origins, self._names), changed, self._renamed)

    # --- sentences -------------------------------------------------------------------------------

    def set_text(self, number: int, text: str) -> None:
        segment = self._segment(number)
        bare = _clean(text)
        if len(bare) > MAX_TEXT_CHARS:
            message = f"the text has {len(bare)} characters"
            raise UsageError(message, hint=f"give at most {MAX_TEXT_CHARS}; split the sentence")
        if bare == segment.text.strip():
            return
        words = self._words_for(segment, bare) if segment.is_timed and bare else ()
        text = "".join(word.text for word in words) or self._lead(segment) + bare
        self._put(number, replace(segment, text=text if bare else "", words=words))

    def _words_for(self, segment: Segment, bare: str) -> tuple[Word, ...]:
        """The original's words if it has this text here; else retimed from the words before."""
        speaker = segment.words[0].speaker if segment.words else segment.speaker
        heard = self._heard_in(segment)
        if "".join(word.text for word in heard).strip() == bare:
            return tuple(replace(word, speaker=speaker) for word in heard)
        spaced = self._is_spaced(segment)
        texts = word_texts(self._lead(segment) + bare, segment.words, spaced=spaced)
        return retimed(segment.words, texts, (segment.start, segment.end), speaker)

    def _heard_in(self, segment: Segment) -> list[Word]:
        """The words of the original in the time of a segment."""
        heard = self._original.segments
        first = bisect_left(heard, segment.start, key=lambda each: each.start) - 1
        last = bisect_right(heard, segment.end, key=lambda each: each.start)
        return [
            word
            for each in heard[max(0, first) : last]
            for word in each.words
            if segment.start <= word.start and word.end <= segment.end
        ]

    def _lead(self, segment: Segment) -> str:
        """The white space before the text of a sentence."""
        if segment.text.strip():
            return segment.text[: len(segment.text) - len(segment.text.lstrip())]
        return " " if self._is_spaced(segment) else ""

    def _is_spaced(self, segment: Segment) -> bool:
        language = segment.language or self._base.transcript.language
        return language not in UNSPACED_LANGUAGES

    def split(self, number: int, word: int) -> None:
        segment = self._segment(number)
        if not 0 < word < len(segment.words):
            hint = f"it has {len(segment.words)} words; give the first of the second part"
            raise UsageError(f"segment {number} cannot be split before word {word}", hint=hint)
        head = segment.words[:word]
        tail = segment.words[word:]
        parts = (
            replace(segment, end=head[-1].end, text=_joined(head), words=head),
            replace(segment, start=tail[0].start, text=_joined(tail), words=tail),
        )
        self._lines[number : number + 1] = map(self._changed, parts)
        self._n_sentences[segment.speaker or ""] += 1

    def merge(self, number: int) -> None:
        segment = self._segment(number)
        if number + 1 == len(self._lines):
            raise UsageError(f"segment {number} is the last", hint="name the first of two")
        after = self._segment(number + 1)
        words = segment.words + tuple(
            replace(word, speaker=segment.speaker) for word in after.words
        )
        joined = replace(
            segment,
            end=max(segment.end, after.end),
            text=segment.text + after.text,
            words=words if segment.is_timed and after.is_timed else (),
        )
        self._n_sentences[after.speaker or ""] -= 1
        if after.speaker != segment.speaker:
            self._turns.give([after], segment.speaker, self._with_sentences())
        self._lines[number : number + 2] = [self._changed(joined)]

    # --- speakers --------------------------------------------------------------------------------

    def give(self, numbers: Sequence[int], speaker: str | None) -> None:
        name = None if speaker is None else checked_name(speaker)
        given = [n for n in sorted(set(numbers)) if self._segment(n).speaker != name]
        segments = list(map(self._segment, given))
        self._n_sentences.subtract(segment.speaker or "" for segment in segments)
        self._turns.give(segments, name, self._with_sentences())
        self._n_sentences[name or ""] += len(given)
        for number, segment in zip(given, segments, strict=True):
            words = tuple(replace(word, speaker=name) for word in segment.words)
            self._put(number, replace(segment, speaker=name, words=words))

    def _with_sentences(self) -> set[str]:
        """The speakers who have sentences."""
        return {speaker for speaker, count in self._n_sentences.items() if speaker and count}

    def rename(self, old: str, new: str) -> None:
        name = checked_name(new)
        known = self._turns.speakers | self._with_sentences()
        if old not in known:
            message = f"the transcript has no speaker {old[:40]!r}"
            raise UnknownNameError.unknown(message, old, sorted(known), "speakers")
        if old == name:
            return
        labels = {old: name}
        self._renames.append((old, name))
        self._names_now.clear()
        self._turns.rename(old, name)
        self._n_sentences[name] += self._n_sentences.pop(old, 0)
        self._names = composed(self._names, labels)
        self._renamed = composed(self._renamed, labels)
        self._settled.add(old)

    def _segment(self, number: int) -> Segment:
        if not 0 <= number < len(self._lines):
            hint = f"they are numbered from 0 to {len(self._lines) - 1}"
            raise UsageError(f"there is no segment {number}", hint=hint)
        line = self._lines[number]
        if line.n_renames < len(self._renames):
            line = self._renamed_line(line)
            self._lines[number] = line
        return line.segment

    def _renamed_line(self, line: _Line) -> _Line:
        speakers = {line.segment.speaker, *(word.speaker for word in line.segment.words)}
        labels = {name: self._name_now(name, line.n_renames) for name in speakers if name}
        changes = {old: new for old, new in labels.items() if new != old}
        segment = relabelled_segment(line.segment, changes)
        return line._replace(segment=segment, n_renames=len(self._renames))

    def _name_now(self, name: str, n_renames: int) -> str:
        """A speaker's name after the renames from this number on."""
        key = (name, n_renames)
        if key not in self._names_now:
            for old, new in islice(self._renames, n_renames, None):
                name = new if name == old else name
            self._names_now[key] = name
        return self._names_now[key]

    def _put(self, number: int, segment: Segment) -> None:
        self._lines[number] = self._changed(segment)

    def _changed(self, segment: Segment) -> _Line:
        return _Line(segment, None, is_changed=True, n_renames=len(self._renames))


def _joined(words: Sequence[Word]) -> str:
    return "".join(word.text for word in words)


def _clean(text: str) -> str:
    """One line, without characters that a database may refuse."""
    kept = (c for c in text if c.isspace() or unicodedata.category(c) not in ("Cc", "Cs"))
    return " ".join("".join(kept).split())


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_name(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _are_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_number, value))


_EXAMPLES: Mapping[Callable[[Any], bool], object] = {
    _is_number: 3,
    _is_text: "…",
    _is_name: "Ann",
    _are_numbers: [3, 4],
}
_Shape = Mapping[str, Callable[[Any], bool]]
# Each op with its fields, in the order of the parameters.
_OPS: Mapping[str, tuple[Callable[..., None], _Shape]] = {
    "text": (_Draft.set_text, {"segment": _is_number, "text": _is_text}),
    "split": (_Draft.split, {"segment": _is_number, "word": _is_number}),
    "merge": (_Draft.merge, {"segment": _is_number}),
    "speaker": (_Draft.give, {"segments": _are_numbers, "speaker": _is_name}),
    "rename": (_Draft.rename, {"from": _is_text, "to": _is_text}),
}
