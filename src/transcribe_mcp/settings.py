"""The settings of a user or a machine, read from the environment (prefix ``TRANSCRIBE_MCP_``).

What a single call can choose is an option of that call; a setting is its default.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import platformdirs
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """One record, one prefix. Every field is also ``TRANSCRIBE_MCP_<FIELD>`` in the environment."""

    model_config = SettingsConfigDict(env_prefix="TRANSCRIBE_MCP_", frozen=True)

    model: str = Field("auto", description="default model: catalogue name, Hub id or directory")
    data_dir: Path = Field(
        default_factory=lambda: Path(platformdirs.user_data_dir("transcribe-mcp")),
        description="what must be kept: jobs and transcripts",
    )
    cache_dir: Path = Field(
        default_factory=lambda: Path(platformdirs.user_cache_dir("transcribe-mcp")),
        description="what can be made again: converted models",
    )
    threads: int = Field(0, ge=0, description="CPU threads; 0 means every core this process may use")
    offline: bool = Field(False, description="no network call at all (HF_HUB_OFFLINE does the same)")


@lru_cache(maxsize=1)
def settings() -> Settings:
    return Settings()
