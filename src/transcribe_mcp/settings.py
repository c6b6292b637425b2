"""Settings of a user or a machine, read from environment variables with the prefix
``TRANSCRIBE_MCP_``.

Settings are defaults: an option of a command or a tool call takes precedence.
"""

from __future__ import annotations

import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import platformdirs
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)

from .errors import UsageError

PREFIX = "TRANSCRIBE_MCP_"
TOKEN_VARIABLE = f"{PREFIX}TOKEN"


class Settings(BaseModel):
    """All settings. The variable of a field is ``TRANSCRIBE_MCP_<FIELD>``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(
        default="auto",
        description="model: a name from the catalogue, a Hugging Face ID or a directory",
    )
    data_dir: Path = Field(
        default_factory=lambda: Path(platformdirs.user_data_dir("transcribe-mcp")),
        description="directory for jobs and transcripts",
    )
    cache_dir: Path = Field(
        default_factory=lambda: Path(platformdirs.user_cache_dir("transcribe-mcp")),
        description="directory for converted models and other files that can be recreated",
    )
    threads: int = Field(default=0, ge=0, description="CPU threads; 0 uses all available cores")
    offline: bool = Field(
        default=False, description="never use the network; HF_HUB_OFFLINE=1 has the same effect"
    )
    database_url: str = Field(
        default="",
        description="URL of a PostgreSQL database for jobs and transcripts; SQLite if empty",
    )
    allowed_roots: tuple[Path, ...] = Field(
        default=(),
        description="directories from which a server may read recordings, separated as in PATH",
    )
    allow_urls: bool = Field(
        default=False, description="a server may download recordings from public URLs"
    )
    allowed_sources: tuple[str, ...] = Field(
        default=(),
        description="URL prefixes of object storage from which a server may read recordings, "
        "such as s3://bucket/talks/, separated by spaces",
    )
    allow_voices: bool = Field(
        default=False, description="clients of a server may have known voices recognized"
    )
    token: SecretStr = Field(
        default=SecretStr(""), description="bearer token that HTTP clients of a server must send"
    )
    max_file_gib: float = Field(
        default=5.0,
        gt=0,
        allow_inf_nan=False,
        description="size limit of a server for one recording, in GiB",
    )
    max_duration_hours: float = Field(
        default=24.0, gt=0, description="duration limit of a server for one recording, in hours"
    )
    start_workers: bool = Field(
        default=True,
        description="commands and servers start workers; false if a service runs them",
    )
    workers: int = Field(
        default=0,
        ge=0,
        description="number of workers; 0 starts one per usable GPU, or one on the CPU",
    )
    keep_days: float = Field(
        default=0,
        ge=0,
        description="days after which finished jobs are deleted; 0 never deletes automatically",
    )
    unload_after_s: float = Field(
        default=300,
        ge=0,
        description="idle seconds after which a worker unloads its model; 0 unloads at once",
    )
    exit_after_s: float = Field(
        default=1800, ge=0, description="idle seconds after which workers exit; 0 exits at once"
    )
    max_queue_length: int = Field(default=1000, gt=0, description="maximum number of queued jobs")
    model_aliases: tuple[str, ...] = Field(
        default=(),
        description="names of models for HTTP clients, as NAME=MODEL, separated by spaces",
    )
    allow_model_download: bool = Field(
        default=False, description="HTTP clients may have models downloaded that are not here"
    )
    max_live: int = Field(
        default=2, ge=0, description="maximum number of live sessions of a server; 0 allows none"
    )

    @property
    def max_file_bytes(self) -> int:
        return int(self.max_file_gib * 1024**3)

    def to_environment(self) -> dict[str, str]:
        """Variables for another process: these settings without the token, with absolute paths."""
        found: dict[str, str] = {}
        for name in {*self.model_fields_set, "data_dir", "cache_dir"} - {"token"}:
            value = getattr(self, name)
            paths = value if isinstance(value, tuple) else (value,)
            texts = (str(part.absolute() if isinstance(part, Path) else part) for part in paths)
            separator = os.pathsep if name == "allowed_roots" else " "
            found[f"{PREFIX}{name.upper()}"] = separator.join(texts)
        return found

    @model_validator(mode="before")
    @classmethod
    def _with_environment(cls, given: dict[str, Any]) -> dict[str, Any]:
        """The environment's values, unless given. Names of variables have any letter case."""
        variables = {name.upper(): value for name, value in os.environ.items()}
        found = {name: variables.get(f"{PREFIX}{name.upper()}") for name in cls.model_fields}
        return {name: value for name, value in found.items() if value is not None} | given

    @field_validator("allowed_roots", mode="before")
    @classmethod
    def _split_like_path(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return tuple(Path(part).expanduser() for part in value.split(os.pathsep) if part)

    @field_validator("allowed_sources", mode="before")
    @classmethod
    def _split_prefixes(cls, value: object) -> object:
        """Prefixes end in a slash, so that ``s3://talks`` does not open ``s3://talks-private``."""
        parts = value.split() if isinstance(value, str) else value
        if not isinstance(parts, list | tuple):
            return value
        for part in parts:
            if not re.fullmatch(r"[a-z][a-z0-9]+://[^/@\s]+(/.*)?", str(part)):
                raise ValueError("give prefixes such as s3://bucket/talks/")
        return tuple(f"{str(part).removesuffix('/')}/" for part in parts)

    @field_validator("model_aliases", mode="before")
    @classmethod
    def _split_aliases(cls, value: object) -> object:
        parts = value.split() if isinstance(value, str) else value
        if isinstance(parts, list | tuple) and not all(all(_pair(str(part))) for part in parts):
            raise ValueError("give aliases such as whisper-1=small")
        return parts

    @property
    def models_by_alias(self) -> dict[str, str]:
        return dict(_pair(alias) for alias in self.model_aliases)


def _pair(alias: str) -> tuple[str, str]:
    name, _, model = alias.partition("=")
    return name, model


@lru_cache(maxsize=1)
def settings() -> Settings:
    """The settings of this process, read once.

    Raises:
        UsageError: a variable has an invalid value.
    """
    try:
        return Settings()
    except ValidationError as error:
        wrong = error.errors()[0]
        variable = f"{PREFIX}{wrong['loc'][0]}".upper()
        raise UsageError(
            f"the variable {variable} is {wrong['input']!r}: {wrong['msg']}",
            hint="correct or unset the variable",
        ) from error


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
