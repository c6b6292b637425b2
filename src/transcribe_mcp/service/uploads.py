"""Recordings that clients send, for front ends, which see nothing below the service."""

from __future__ import annotations

from ..domain.private_files import FILE_MODE
from ..jobs.uploads import TEMPORARY, Upload, make_folder, name_of

__all__ = ["FILE_MODE", "TEMPORARY", "Upload", "make_folder", "name_of"]
