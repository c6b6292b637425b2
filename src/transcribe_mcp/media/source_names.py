"""Find the file that a name means: quoted, as a ``file:`` URI, or with look-alike characters.

An exact match wins; other spellings are tried only if it does not exist.
"""

from __future__ import annotations

import difflib
import glob
import os
import re
import unicodedata
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from urllib.parse import unquote

MAX_ENTRIES = 20_000  # compared per directory
MAX_ALIKE = 8
MAX_NAME_CHARS = 4096

_QUOTES = {
    "'": "'", '"': '"', "`": "`", "‘": "’", "’": "’", "‚": "‘", "“": "”", "”": "”", "„": "“",
    "«": "»", "»": "«", "‹": "›", "<": ">",
}  # fmt: skip
_CLOSING = {"“": "”“", "„": "“”", "‘": "’‘", "‚": "‘’"}
_FILE_URI = re.compile(
    r"file:(?://(?:localhost|127\.0\.0\.1)?(?=/))?(.*)", re.IGNORECASE | re.DOTALL
)
_ESCAPED = re.compile(r"\\([ ()\[\]{}'\"&!$*?;<>|\\`#~])")
_PERCENT = re.compile(r"%[0-9A-Fa-f]{2}")


def plain_name(source: str) -> str:
    """Strip spaces and quotes, decode a ``file:`` URI and expand ``~``.

    A URI with another host stays unchanged.
    """
    if len(source) > MAX_NAME_CHARS:
        return source
    name = _unquoted(source)
    match = _FILE_URI.fullmatch(name)
    if match and match[1] and not match[1].startswith("//"):
        name = unquote(match[1])
        if os.name == "nt" and re.match(r"/[A-Za-z]:", name):
            name = name[1:]
    if name.startswith("~"):
        expanded = os.path.expanduser(name)  # noqa: PTH111 - leaves names of no user
        name = name if expanded.startswith("~") else expanded
    return name


def spellings(source: str) -> Iterator[str]:
    """Possible spellings, most literal first, without duplicates."""
    plain = plain_name(source)
    others = [source, source.strip(), _unquoted(source), plain]
    if match := _FILE_URI.fullmatch(_unquoted(source)):
        others += [
            match[1],
            unquote(match[1].removeprefix("/")),
        ]  # A literal % sign; file://home/me/a.mp3 with a slash missing.
    if _PERCENT.search(plain):
        others.append(unquote(plain))
    if os.name != "nt" and "\\" in plain:
        others.append(_ESCAPED.sub(r"\1", plain))  # a shell's escapes
    yield from dict.fromkeys(others)


def bare_url(source: str) -> str:
    """Strip spaces and quotes from a URL; other names stay unchanged."""
    name = _unquoted(source) if len(source) <= MAX_NAME_CHARS else source
    return (
        name
        if re.match(r"[A-Za-z][A-Za-z0-9]+://", name) and name[:5].lower() != "file:"
        else source
    )


def existing_name(source: str) -> str:
    """The spelling, or the single look-alike, of an existing file; otherwise the plain name."""
    for name in spellings(source):
        if name and exists(Path(name)):
            return name
    plain = plain_name(source)
    found = look_alikes(Path(plain)) if plain else []
    return str(found[0]) if len(found) == 1 else plain


def literal_parts(pattern: Path) -> int:
    """Count the leading parts that are literal: one in ``album [2024]/*.mp3`` if that exists."""
    for number, part in enumerate(pattern.parts):
        if glob.has_magic(part) and not exists(Path(*pattern.parts[: number + 1])):
            return number
    return len(pattern.parts)


Listable = Callable[[Path], bool]
"""Whether a directory may be listed."""


def look_alikes(path: Path, may_list: Listable = lambda _: True) -> list[Path]:
    """Existing paths that differ only in spaces, dashes, quotes or Unicode composition."""
    base, missing = _existing_part(path)
    found = [base]
    for part in missing:
        target = _drawn(part)
        below = (folder / name for folder in found for name in _names_in(folder, may_list))
        found = list(islice((each for each in below if _drawn(each.name) == target), MAX_ALIKE))
    return found if missing else []


def nearest(path: Path, may_list: Listable = lambda _: True) -> str:
    """A hint for a path that does not exist, or an empty string."""
    link = _broken_link(path, may_list)
    if link == path:
        return "it is a symbolic link, and what it points to is missing; name the recording itself"
    if link:
        return f"{str(link)!r} is a symbolic link, and what it points to is missing"
    alike = look_alikes(path, may_list)
    if alike:
        names = [repr(str(each)) for each in alike]
    else:
        base, missing = _existing_part(path)
        entries = {_drawn(name).casefold(): name for name in _names_in(base, may_list)}
        target = _drawn(missing[0]).casefold() if missing else ""
        close = (
            [target]
            if target in entries
            else difflib.get_close_matches(target, entries, n=3, cutoff=0.75)
        )
        names = [repr(entries[each]) for each in close]
        if names and len(missing) > 1:
            return f"there is {' and '.join(names)} in {str(base)!r}"
    return f"did you mean {' or '.join(names)}?" if names else ""


def _broken_link(path: Path, may_list: Listable) -> Path | None:
    """The first part of a path that is a link to a missing file, or to itself."""
    base, missing = _existing_part(path)
    if not missing or not may_list(base):
        return None
    part = base / missing[0]
    return part if os.path.islink(part) else None  # noqa: PTH114 - long names are no error


def _existing_part(path: Path) -> tuple[Path, tuple[str, ...]]:
    """Split a path into the part that exists and the names after it."""
    for above in (path, *path.parents):
        if exists(above):
            return above, path.parts[len(above.parts) :] if above != Path() else path.parts
    return path, ()


def _names_in(folder: Path, may_list: Listable) -> list[str]:
    """Names in a directory, except hidden ones."""
    if not may_list(folder):
        return []
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in islice(entries, MAX_ENTRIES)]
    except OSError:
        return []
    return sorted(name for name in names if not name.startswith("."))


_LOOKS = str.maketrans(
    {**dict.fromkeys("’‘‛ʼʻ′´`", "'"), **dict.fromkeys("“”„‟″", '"'), "−": "-", "…": "..."}
)


def _drawn(name: str) -> str:
    """Normalize a name so that look-alikes compare equal."""
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
    """``Path.exists`` without exceptions."""
    try:
        return path.exists()
    except (OSError, ValueError):  # too long, or contains NUL
        return False
