"""Diarization of a recording, in a thread beside recognition, on the same samples."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor, wait

import numpy as np
from numpy.typing import NDArray

from ..media.decode import Samples
from ..speakers.devices import networks_on
from ..speakers.diarizer import Diarizer
from ..speakers.evidence import Evidence
from ..speakers.protocol import SpeakerNetworks

BLOCKS_AHEAD = 2  # that may wait for the thread
GPU_BLOCKS_AHEAD = 8  # the same on a GPU, whose first batch has half an hour of audio


class SpeakerPass:
    """One pass of a diarizer over a recording, on the device of the model or the CPU."""

    def __init__(self, device: str, threads: int) -> None:
        self._networks: SpeakerNetworks | None = None
        self._diarizer: Diarizer | None = None
        self._thread = ThreadPoolExecutor(1, "speakers")
        loading = self._thread.submit(self._load, device, threads)
        n_ahead = GPU_BLOCKS_AHEAD if device.startswith("cuda") else BLOCKS_AHEAD
        self._waiting = deque([loading], maxlen=n_ahead)

    def _load(self, device: str, threads: int) -> None:
        self._networks = networks_on(device, threads)
        self._diarizer = Diarizer(self._networks)

    def push(self, samples: Samples, detected: NDArray[np.float32], *, last: bool) -> None:
        """Take the next samples and the probabilities of speech of the voice detector."""
        if len(self._waiting) == self._waiting.maxlen:
            wait([self._waiting[0]])
        before = self._waiting[-1]
        self._waiting.append(self._thread.submit(self._take, before, samples, detected, last=last))

    def _take(
        self, before: Future[None], samples: Samples, detected: NDArray[np.float32], *, last: bool
    ) -> None:
        before.result()  # an error is raised at the last block
        assert self._diarizer is not None
        self._diarizer.push(samples, detected, last=last)

    def evidence(self) -> Evidence:
        """Wait for the last block.

        Raises:
            EngineUnavailableError: a network cannot be loaded.
            Exception: the error of the diarizer.
        """
        self._waiting[-1].result()
        assert self._diarizer is not None
        return self._diarizer.evidence()

    def close(self) -> None:
        """Also if the recording is cancelled."""
        self._thread.shutdown(cancel_futures=True)
        if self._networks is not None:
            self._networks.close()
