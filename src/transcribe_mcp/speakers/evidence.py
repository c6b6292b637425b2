"""The evidence of a recording's speakers, which suffices to detect them again without the audio."""

from __future__ import annotations

import io
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

VERSION = 2  # the bandwidth is unknown in version 1
N_EMBEDDING = 192


@dataclass(frozen=True, slots=True)
class Evidence:
    """
    Attributes:
        speech: whether anybody speaks, per frame, (n,) bool; see ``segmentation``.
        overlap: whether two speak at once, per frame, (n,) bool.
        starts, ends: of the windows, in order, in seconds, (m,) float32.
        embeddings: of the voices in them, (m, 192) float16.
        wide: whether they have sound above the telephone band, (m,) bool.
    """

    speech: NDArray[np.bool_]
    overlap: NDArray[np.bool_]
    starts: NDArray[np.float32]
    ends: NDArray[np.float32]
    embeddings: NDArray[np.float16]
    wide: NDArray[np.bool_]

    def dumps(self) -> bytes:
        packed: dict[str, NDArray[Any]] = {
            each.name: getattr(self, each.name) for each in fields(self)
        }
        for name in ("speech", "overlap"):
            packed[name] = np.packbits(packed[name])
        file = io.BytesIO()
        packed["n_frames"] = np.array(len(self.speech))
        packed["version"] = np.array(VERSION)
        np.savez_compressed(file, allow_pickle=False, **packed)
        return file.getvalue()

    @classmethod
    def loads(cls, data: bytes) -> Evidence:
        """
        Raises:
            ValueError: the data is damaged, or of another version.
        """
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as stored:
                values = dict(stored)
            version = int(values.pop("version"))
            if version == 1:
                values["wide"] = np.ones(len(values["starts"]), np.bool_)
            n_frames = int(values.pop("n_frames"))
            for name in ("speech", "overlap"):
                values[name] = np.unpackbits(values[name], count=n_frames).astype(np.bool_)
            evidence = cls(**values)
            is_whole = evidence._is_whole()
        except Exception as error:  # numpy and zipfile raise nothing narrower
            raise ValueError(f"the evidence of the speakers is damaged: {error}") from error
        if not 1 <= version <= VERSION:
            raise ValueError(
                f"the evidence has version {version}, but this program reads {VERSION}"
            )
        if not is_whole:
            raise ValueError("the evidence of the speakers is damaged: its parts do not match")
        return evidence

    def _is_whole(self) -> bool:
        n = len(self.starts)
        shapes = {
            "starts": ((n,), np.float32),
            "ends": ((n,), np.float32),
            "embeddings": ((n, N_EMBEDDING), np.float16),
            "wide": ((n,), np.bool_),
        }
        return all(
            getattr(self, name).shape == shape and getattr(self, name).dtype == dtype
            for name, (shape, dtype) in shapes.items()
        )
