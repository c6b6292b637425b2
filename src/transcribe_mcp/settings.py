"""The settings of a user or a machine, read from the environment (prefix ``TRANSCRIBE_MCP_``).

What a single call can choose is an option of that call; a setting is its default.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Annotated

import platformdirs
from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from .errors import UsageError


class Settings(BaseSettings):
    """One record, one prefix. Every field is also ``TRANSCRIBE_MCP_<FIELD>`` in the environment."""

    model_config = SettingsConfigDict(env_prefix="TRANSCRIBE_MCP_", frozen=True)

    model: str = Field(
        default="auto", description="default model: catalogue name, Hub id or directory"
    )
    data_dir: Path = Field(
        default_factory=lambda: Path(platformdirs.user_data_dir("transcribe-mcp")),
        description="what must be kept: jobs and transcripts",
    )
    cache_dir: Path = Field(
        default_factory=lambda: Path(platformdirs.user_cache_dir("transcribe-mcp")),
        description="what can be made again: converted models",
    )
    threads: int = Field(
        default=0, ge=0, description="CPU threads; 0 means every core this process may use"
    )
    offline: bool = Field(
        default=False, description="no network call at all (HF_HUB_OFFLINE does the same)"
    )
    database_url: str = Field(
        default="", description="PostgreSQL for jobs and transcripts; empty is SQLite in data_dir"
    )
    allowed_roots: Annotated[tuple[Path, ...], NoDecode] = Field(
        default=(),
        description="directories whose recordings a server may read, separated as in PATH",
    )
    allow_urls: bool = Field(
        default=False, description="a server may fetch recordings from public addresses"
    )
    token: SecretStr = Field(
        default=SecretStr(""), description="bearer token that HTTP clients of a server must send"
    )
    max_file_gib: float = Field(
        default=5.0,
        gt=0,
        allow_inf_nan=False,
        description="GiB of the largest recording that a server takes",
    )
    max_duration_hours: float = Field(
        default=24.0, gt=0, description="hours of the longest recording that a server takes"
    )
    start_workers: bool = Field(
        default=True,
        description="commands and servers start the workers of this machine; false leaves it to a service",
    )
    workers: int = Field(
        default=0, ge=0, description="workers on this machine; 0 means one for every usable GPU"
    )
    keep_days: float = Field(
        default=0, ge=0, description="days that finished jobs are kept; 0 keeps them for good"
    )
    unload_after_s: float = Field(
        default=300,
        ge=0,
        description="idle seconds until a worker gives back its model; 0: at once",
    )
    exit_after_s: float = Field(
        default=1800, ge=0, description="idle seconds until the workers end; 0: at once"
    )
    max_queue_length: int = Field(
        default=1000, gt=0, description="jobs that may wait at once, at least 1"
    )

    @field_validator("allowed_roots", mode="before")
    @classmethod
    def _split_like_path(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return tuple(Path(part).expanduser() for part in value.split(os.pathsep) if part)


@lru_cache(maxsize=1)
def settings() -> Settings:
    """Read once.

    Raises:
        UsageError: a variable holds what its setting cannot be.
    """
    try:
        return Settings()
    except ValidationError as error:
        wrong = error.errors()[0]
        variable = f"TRANSCRIBE_MCP_{wrong['loc'][0]}".upper()
        message = f"the variable {variable} is {wrong['input']!r}: {wrong['msg']}"
        raise UsageError(message, hint="correct the variable, or unset it") from error


def usable_cores() -> int:
    """Cores this process may use: its affinity, and a container's quota where it has one."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return cores
    return cores if quota == "max" else max(1, min(cores, int(quota) // int(period)))
