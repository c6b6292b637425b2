"""Settings of a user or a machine, read from environment variables with the prefix
``TRANSCRIBE_MCP_``.

Settings are defaults: an option of a command or a tool call takes precedence.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import platformdirs

from .errors import UsageError

PREFIX = "TRANSCRIBE_MCP_"
TOKEN_VARIABLE = f"{PREFIX}TOKEN"


# --- values: each reader takes a variable's text, each check a value -----------------------------


def _read_switch(text: str) -> bool:
    switches = {"1": True, "true": True, "yes": True, "on": True}
    switches |= {"0": False, "false": False, "no": False, "off": False}
    if text.lower() not in switches:
        raise ValueError("give 1 or 0")
    return switches[text.lower()]


def _read_integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError("give a whole number") from None


def _read_number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError("give a number") from None


def _read_directories(text: str) -> tuple[Path, ...]:
    return tuple(Path(part).expanduser() for part in text.split(os.pathsep) if part)


def _read_words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_READERS: dict[str, Callable[[str], Any]] = {
    "str": str,
    "bool": _read_switch,
    "int": _read_integer,
    "float": _read_number,
    "Path": Path,
    "tuple[Path, ...]": _read_directories,
    "tuple[str, ...]": _read_words,
}


def _not_negative(value: float) -> float:
    if not value >= 0:  # NaN too
        raise ValueError("give a number of at least 0")
    return value


def _positive(value: float) -> float:
    if not 0 < value < math.inf:
        raise ValueError("give a finite number above 0")
    return value


def _prefixes(parts: tuple[str, ...]) -> tuple[str, ...]:
    """Prefixes end in a slash, so that ``s3://talks`` does not open ``s3://talks-private``."""
    if not all(re.fullmatch(r"[a-z][a-z0-9]+://[^/@\s]+(/.*)?", part) for part in parts):
        raise ValueError("give prefixes such as s3://bucket/talks/")
    return tuple(f"{part.removesuffix('/')}/" for part in parts)


def _aliases(parts: tuple[str, ...]) -> tuple[str, ...]:
    if not all(all(_pair(part)) for part in parts):
        raise ValueError("give aliases such as whisper-1=small")
    return parts


def _pair(alias: str) -> tuple[str, str]:
    name, _, model = alias.partition("=")
    return name, model


def _user_data_dir() -> Path:
    return Path(platformdirs.user_data_dir("transcribe-mcp"))


def _user_cache_dir() -> Path:
    return Path(platformdirs.user_cache_dir("transcribe-mcp"))


def _setting(default: Any, check: Callable[[Any], Any] | None = None, **declared: Any) -> Any:
    return field(default=default, metadata={"check": check}, **declared)


def _value_of(setting: Field[Any], written: Any) -> Any:
    """
    Raises:
        ValueError: the message says how to write it.
    """
    if written is None:
        return setting.default if setting.default_factory is MISSING else setting.default_factory()
    value = _READERS[str(setting.type)](written.strip()) if isinstance(written, str) else written
    check = setting.metadata.get("check")
    return check(value) if check else value


@dataclass(frozen=True, init=False)
class Settings:
    """All settings. The variable of a field is ``TRANSCRIBE_MCP_<FIELD>``.

    Attributes:
        model: a name from the catalogue, a Hugging Face ID or a directory.
        data_dir: directory for jobs and transcripts.
        cache_dir: directory for converted models and other files that can be recreated.
        threads: CPU threads; 0 uses all available cores.
        offline: never use the network; ``HF_HUB_OFFLINE=1`` has this effect for models.
        database_url: of a PostgreSQL database for jobs and transcripts; SQLite if empty.
        allowed_roots: directories from which a server may read recordings.
        allow_urls: a server may download recordings from public URLs.
        allowed_sources: URL prefixes of object storage from which a server may read recordings.
        allow_voices: clients of a server may have known voices recognized.
        token: bearer token that HTTP clients of a server must send.
        max_file_gib: size limit of a server for one recording.
        max_duration_hours: duration limit of a server for one recording.
        start_workers: commands and servers start workers; false if a service runs them.
        workers: number of workers; 0 starts one per usable GPU (two if many jobs wait for a large
            one), or one on the CPU.
        keep_days: days after which finished jobs are deleted; 0 never deletes automatically.
        unload_after_s: idle seconds after which a worker unloads its model; 0 unloads at once.
        exit_after_s: idle seconds after which workers exit; 0 exits at once.
        max_queue_length: maximum number of queued jobs.
        model_aliases: names of models for HTTP clients, as ``NAME=MODEL``.
        allow_model_download: HTTP clients may request models that must be downloaded.
        max_live: maximum number of live sessions of a server; 0 allows none.
    """

    # Every process reads settings. Pydantic models would take a third of a command's start time.
    model: str = _setting("auto")
    data_dir: Path = field(default_factory=_user_data_dir)
    cache_dir: Path = field(default_factory=_user_cache_dir)
    threads: int = _setting(0, _not_negative)
    offline: bool = _setting(False)
    database_url: str = _setting("")
    allowed_roots: tuple[Path, ...] = _setting(())
    allow_urls: bool = _setting(False)
    allowed_sources: tuple[str, ...] = _setting((), _prefixes)
    allow_voices: bool = _setting(False)
    token: str = _setting("", repr=False)
    max_file_gib: float = _setting(5.0, _positive)
    max_duration_hours: float = _setting(24.0, _positive)
    start_workers: bool = _setting(True)
    workers: int = _setting(0, _not_negative)
    keep_days: float = _setting(0.0, _not_negative)
    unload_after_s: float = _setting(300.0, _not_negative)
    exit_after_s: float = _setting(1800.0, _not_negative)
    max_queue_length: int = _setting(1000, _positive)
    model_aliases: tuple[str, ...] = _setting((), _aliases)
    allow_model_download: bool = _setting(False)
    max_live: int = _setting(2, _not_negative)

    def __init__(self, **given: Any) -> None:
        """The values ``given`` by name; others from the environment, where the letter case of
        variables does not matter and empty ones count as unset.

        Raises:
            UsageError: a value is invalid.
        """
        if unknown := given.keys() - {each.name for each in fields(self)}:
            raise TypeError(f"there are no settings {sorted(unknown)}")
        variables = {name.upper(): value for name, value in os.environ.items() if value}
        for each in fields(self):
            variable = f"{PREFIX}{each.name.upper()}"
            written = given.get(each.name, variables.get(variable))
            try:
                value = _value_of(each, written)
            except ValueError as error:
                if each.name in given:
                    message = f"the setting {each.name} is {written!r}"
                    raise UsageError(message, hint=str(error)) from error
                raise UsageError(
                    f"the variable {variable} is {written!r}: {error}",
                    hint="correct or unset the variable",
                ) from error
            object.__setattr__(self, each.name, value)

    @property
    def max_file_bytes(self) -> int:
        return int(self.max_file_gib * 1024**3)

    @property
    def models_by_alias(self) -> dict[str, str]:
        return dict(_pair(alias) for alias in self.model_aliases)

    def to_environment(self) -> dict[str, str]:
        """Variables for a child process: these settings without the token, with absolute paths.

        Unchanged defaults are omitted, because the child has the same.
        """
        set_here = {name.upper() for name in os.environ}
        found: dict[str, str] = {}
        for each in fields(self):
            variable = f"{PREFIX}{each.name.upper()}"
            value = getattr(self, each.name)
            if variable not in set_here and value == _value_of(each, None):
                continue
            parts = value if isinstance(value, tuple) else (value,)
            texts = (str(part.absolute() if isinstance(part, Path) else part) for part in parts)
            separator = os.pathsep if each.name == "allowed_roots" else " "
            found[variable] = separator.join(texts)
        found.pop(TOKEN_VARIABLE, None)
        return found


@lru_cache(maxsize=1)
def settings() -> Settings:
    """The settings of this process, read once.

    Raises:
        UsageError: a variable has an invalid value.
    """
    return Settings()


def usable_cores() -> int:
    """Logical cores available to this process: its CPU affinity, limited by a container."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return cores
    return cores if quota == "max" else max(1, min(cores, int(quota) // int(period)))


def cores_beside_gpu(cores: int) -> int:
    """Cores for reading a recording; the threads that launch GPU work need some too."""
    return max(1, round(0.75 * cores))
