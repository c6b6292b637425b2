"""The fields of a request to ``/v1/audio``, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...domain.options import Options, options_of
from ...errors import UsageError
from ...service.models import JobOptions
from .known_speakers import NAMES, REFERENCES, digest_of, known_speakers
from .models import DIARIZING, find_model
from .refusals import Refused, refused_by
from .uploads import Form

WORD = "word"
SEGMENT = "segment"
DIARIZED = "diarized_json"
FORMATS = ("json", "text", "srt", "vtt", "verbose_json")
_TRUE = {"true": True, "1": True, "false": False, "0": False, "": False}
# Of /v1/audio/transcriptions. Translations have no language, and no speakers.
_FIELDS = frozenset(
    {"model", "language", "languages", "prompt", "keywords", "hotwords", "temperature",
     "response_format", "timestamp_granularities", "stream", "include", "chunking_strategy",
     NAMES, REFERENCES}
)  # fmt: skip
_OF_TRANSLATIONS = frozenset({"model", "prompt", "response_format", "temperature"})


@dataclass(frozen=True, slots=True)
class AudioRequest:
    """A client's request.

    Attributes:
        granularities: of ``verbose_json``: ``word``, ``segment`` or both.
        ignored: fields without effect here.
        clips: of the voices that ``options.references`` names.
    """

    options: JobOptions
    response_format: str
    granularities: frozenset[str]
    is_streamed: bool
    ignored: Sequence[str]
    clips: Sequence[bytes] = ()


def audio_request(form: Form, task: str) -> AudioRequest:
    """Read the fields. Blocks: it searches the disk for the model.

    Raises:
        Refused: a field has an invalid value.
    """
    known = _FIELDS if task == "transcribe" else _OF_TRANSLATIONS
    ignored = [name for name in form.names if name not in known]
    if len(form.many("languages")) > 1:
        ignored.append("languages")
    if "include" in known and form.many("include"):
        message = (
            "include is not supported; leave it out; verbose_json has the avg_logprob of segments"
        )
        raise unsupported("include", message)
    response_format = _response_format(form, task)
    diarize = response_format == DIARIZED or form.choice("model") == DIARIZING
    persons = known_speakers(form, diarize=diarize) if NAMES in known else {}
    given: dict[str, Any] = {
        "model": find_model(form.choice("model")),
        "task": task,
        "prompt": form.one("prompt"),
        "diarize": diarize,
        "references": tuple(f"{name}={digest_of(clip)}" for name, clip in persons.items()),
    }
    if "language" in known:
        given |= {"language": _language(form) or "auto", "vocabulary": _vocabulary(form)}
    if temperature := _temperature(form):
        given["temperatures"] = (temperature,)
    return AudioRequest(
        options=checked_options(given),
        response_format=response_format,
        granularities=_granularities(form),
        is_streamed=task == "transcribe" and is_true(form.choice("stream"), "stream"),
        ignored=ignored,
        clips=tuple(persons.values()),
    )


def form_options(form: Form) -> JobOptions:
    """The options of the page's form. Blocks as ``audio_request`` does.

    Raises:
        Refused: a field has an invalid value.
    """
    words = form.one("vocabulary").split(",")
    given: dict[str, Any] = {
        "model": find_model(form.choice("model")),
        "language": form.choice("language") or "auto",
        "vocabulary": tuple(filter(None, map(str.strip, words))),
        "diarize": is_true(form.choice("diarize"), "diarize"),
    }
    if speakers := form.choice("speakers"):
        if not (speakers.isascii() and speakers.isdecimal() and len(speakers) < 4):
            message = f"speakers is {speakers[:64]!r}; give the number of speakers"
            raise Refused(400, message, "usage", param="speakers")
        given["speakers"] = int(speakers)
    return checked_options(given)


def named_options(given: Mapping[str, Any]) -> JobOptions:
    """The options of a job by name. Blocks as ``audio_request`` does.

    Raises:
        Refused: an option is unknown or has an invalid value.
    """
    known = [each.name for each in options_of(JobOptions, "mcp")]
    if unknown := sorted(given.keys() - set(known)):
        message = f"there is no option {unknown[0][:64]!r}; choose from {', '.join(known)}"
        raise Refused(400, message, "usage", param="options")
    values = {name: value for name, value in given.items() if value is not None}
    model = values.get("model", "")
    if not isinstance(model, str):
        message = f"model is {str(model)[:64]!r}; give the name of a model"
        raise Refused(400, message, "usage", param="model")
    return checked_options(values | {"model": find_model(model)})


def unsupported(param: str, message: str) -> Refused:
    return Refused(400, message, "unsupported_value", param=param)


def _response_format(form: Form, task: str) -> str:
    formats = (*FORMATS, DIARIZED) if task == "transcribe" else FORMATS
    name = form.choice("response_format").lower() or "json"
    if name not in formats:
        message = f"there is no response_format {name[:64]!r}; choose {', '.join(formats)}"
        raise unsupported("response_format", message)
    return name


def _language(form: Form) -> str:
    languages = form.many("languages")
    return form.choice("language") or (languages[0] if len(languages) == 1 else "")


def _vocabulary(form: Form) -> tuple[str, ...]:
    words = [word for text in form.many("hotwords") for word in text.split(",")]
    return tuple(filter(None, map(str.strip, (*form.many("keywords"), *words))))


def _temperature(form: Form) -> float:
    text = form.choice("temperature") or "0"
    try:
        temperature = float(text)
    except ValueError:
        temperature = -1.0
    if not 0 <= temperature <= 1:
        message = f"temperature is {text[:64]!r}; give a number from 0 to 1"
        raise Refused(400, message, "usage", param="temperature")
    return temperature


def _granularities(form: Form) -> frozenset[str]:
    found = frozenset(form.many("timestamp_granularities"))
    if other := found - {WORD, SEGMENT}:
        message = f"timestamp_granularities has {min(other)[:64]!r}; choose word, segment or both"
        raise unsupported("timestamp_granularities", message)
    return found or frozenset({SEGMENT})


def is_true(text: str, name: str) -> bool:
    """
    Raises:
        Refused: the text is neither true nor false.
    """
    text = text.lower()
    if text not in _TRUE:
        raise Refused(400, f"{name} is {text[:64]!r}; give true or false", "usage", param=name)
    return _TRUE[text]


def checked_options(given: Mapping[str, Any]) -> JobOptions:
    """The options. Submission checks them; here, the error can name the field.

    Raises:
        Refused: an option has an invalid value.
    """
    names = given.keys() & {each.name for each in options_of(Options)}
    try:
        Options(**{name: value for name, value in given.items() if name in names})
    except UsageError as error:
        param = "language" if "language" in str(error) else None
        raise refused_by(error, param=param) from error
    return JobOptions(**given)
