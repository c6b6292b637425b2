"""The interface of the two networks on any device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Rows = NDArray[np.intp]


class SpeakerNetworks(Protocol):
    """Runs the two networks. Calls get whole batches, except the last one of a recording."""

    segmentation_batch: int
    embedding_batch: int

    def on_device(self, samples: Array) -> Any:
        """Samples (n,) as an array on the device."""

    def joined(self, parts: Sequence[Any]) -> Any:
        """Concatenate arrays on the device."""

    def segment(self, samples: Any) -> Array:
        """P(speech), P(overlap) and the number of the most probable set of speakers in windows of
        10 s, one each 5 s, of samples (n,): (n_windows, 589, 3) float32.
        """

    def log_mel(self, samples: Any) -> Any:
        """Features (n_frames, 80) of samples (n,), on the device."""

    def embed(self, features: Any, firsts: Rows, lengths: Rows) -> Array:
        """Embeddings of windows of features, given by their first frames and lengths of at most
        148 frames: (n, 192) float32.
        """

    def close(self) -> None:
        """Free the device."""
