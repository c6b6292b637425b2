"""How the name of a file may be written: with quotes, as a ``file:`` address, with signs that look like others.

A name that exists as it is written is taken so. Otherwise it is taken for what it can only mean.
"""

from __future__ import annotations

import difflib
import glob
import os
import re
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import unquote

MAX_ENTRIES = 20_000  # of one directory that are compared
MAX_ALIKE = 8
MOST_SPELLED = 4096  # longer texts are no names

_QUOTES = {
    "'": "'", '"': '"', "`": "`", "‘": "’", "’": "’", "‚": "‘", "“": "”", "”": "”", "„": "“", "«": "»", "»": "«",
    "‹": "›", "<": ">",
}  # fmt: skip
_CLOSING = {"“": "”“", "„": "“”", "‘": "’‘", "‚": "‘’"}
_FILE_URI = re.compile(
    r"file:(?://(?:localhost|127\.0\.0\.1)?(?=/))?(.*)", re.IGNORECASE | re.DOTALL
)
_ESCAPED = re.compile(r"\\([ ()\[\]{}'\"&!$*?;<>|\\`#~])")
_PERCENT = re.compile(r"%[0-9A-Fa-f]{2}")


def plain_name(source: str) -> str:
    """The path that a text means: without spaces and quotes around it, out of its ``file:`` address, ``~`` expanded.

    An address of a file on another machine stays as it is.
    """
    if len(source) > MOST_SPELLED:
        return source
    name = _unquoted(source)
    match = _FILE_URI.fullmatch(name)
    if match and match[1] and not match[1].startswith("//"):
        name = unquote(match[1])
        if os.name == "nt" and re.match(r"/[A-Za-z]:", name):
            name = name[1:]
    if name.startswith("~"):
        expanded = os.path.expanduser(name)  # noqa: PTH111 - leaves what is no user's name
        name = name if expanded.startswith("~") else expanded
    return name


def spellings(source: str) -> Iterator[str]:
    """What a text may mean, the most literal first, each once: the first that exists is meant."""
    plain = plain_name(source)
    others = [source, source.strip(), _unquoted(source), plain]
    if match := _FILE_URI.fullmatch(_unquoted(source)):
        others += [
            match[1],
            unquote(match[1].removeprefix("/")),
        ]  # a % that is no escape; file://home/me/a.mp3
    if _PERCENT.search(plain):
        others.append(unquote(plain))
    if os.name != "nt" and "\\" in plain:
        others.append(_ESCAPED.sub(r"\1", plain))  # as a shell shows it
    yield from dict.fromkeys(others)


def bare_url(source: str) -> str:
    """A URL without quotes and spaces around it; any other name as it is."""
    name = _unquoted(source) if len(source) <= MOST_SPELLED else source
    return name if re.match(r"[A-Za-z]{2,}://", name) and name[:5].lower() != "file:" else source


def existing_name(source: str) -> str:
    """The spelling, or the one name that looks the same, of a file or directory that exists; else the plain name."""
    for name in spellings(source):
        if name and exists(Path(name)):
            return name
    plain = plain_name(source)
    found = look_alikes(Path(plain)) if plain else []
    return str(found[0]) if len(found) == 1 else plain


def literal_parts(pattern: Path) -> int:
    """How many leading parts of a pattern are names: in ``album [2024]/*.mp3`` the first, where it exists."""
    for number, part in enumerate(pattern.parts):
        if glob.has_magic(part) and not exists(Path(*pattern.parts[: number + 1])):
            return number
    return len(pattern.parts)


Listable = Callable[[Path], bool]
"""Whether a directory may be listed."""


def look_alikes(path: Path, may_list: Listable = lambda _: True) -> list[Path]:
    """Existing paths that look like ``path``: other spaces, dashes, quotes, accents composed or not."""
    base, missing = _existing_part(path)
    found = [base]
    for part in missing:
        wanted = _drawn(part)
        found = [
            folder / name for folder in found for name in _names_in(folder, may_list) if _drawn(name) == wanted
        ][:MAX_ALIKE]  # fmt: skip
    return found if missing else []


def nearest(path: Path, may_list: Listable = lambda _: True) -> str:
    """A hint that names what looks like a path that does not exist, or nearly so; empty where nothing does."""
    alike = look_alikes(path, may_list)
    if alike:
        names = [repr(str(each)) for each in alike]
    else:
        base, missing = _existing_part(path)
        entries = {_drawn(name).casefold(): name for name in _names_in(base, may_list)}
        wanted = _drawn(missing[0]).casefold() if missing else ""
        close = (
            [wanted]
            if wanted in entries
            else difflib.get_close_matches(wanted, entries, n=3, cutoff=0.75)
        )
        names = [repr(entries[each]) for each in close]
        if names and len(missing) > 1:
            return f"there is {' and '.join(names)} in {str(base)!r}"
    return f"did you mean {' or '.join(names)}?" if names else ""


def _existing_part(path: Path) -> tuple[Path, tuple[str, ...]]:
    """The part of a path that exists, and the names after it."""
    for above in (path, *path.parents):
        if exists(above):
            return above, path.parts[len(above.parts) :] if above != Path() else path.parts
    return path, ()


def _names_in(folder: Path, may_list: Listable) -> list[str]:
    """What is in a directory, hidden names left out."""
    if not may_list(folder):
        return []
    try:
        with os.scandir(folder) as entries:
            return sorted(name for _, name in zip(range(MAX_ENTRIES), (e.name for e in entries), strict=False)
                          if not name.startswith("."))  # fmt: skip
    except OSError:
        return []


_LOOKS = str.maketrans(
    {**dict.fromkeys("’‘‛ʼʻ′´`", "'"), **dict.fromkeys("“”„‟″", '"'), "−": "-", "…": "..."}
)


def _drawn(name: str) -> str:
    """Names that are drawn alike are equal."""
    kept = (
        " " if unicodedata.category(c) == "Zs" else "-" if unicodedata.category(c) == "Pd" else c
        for c in name.translate(_LOOKS)
        if unicodedata.category(c) not in ("Cf", "Cc")
    )
    return " ".join(unicodedata.normalize("NFKC", "".join(kept)).split())


def _unquoted(source: str) -> str:
    name = source.strip("\ufeff\u200b" + " \t\r\n\v\f\u00a0\u202f")
    while (
        len(name) > 2 and name[0] in _QUOTES and name[-1] in _CLOSING.get(name[0], _QUOTES[name[0]])
    ):
        name = name[1:-1].strip()
    return name


def exists(path: Path) -> bool:
    """Whether there is such a file or directory; a text that can be no name is none."""
    try:
        return path.exists()
    except (OSError, ValueError):  # longer than names can be, a NUL in it
        return False
