"""The speakers of a recording, found in a thread beside recognition, on the same samples."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor, wait

import numpy as np
from numpy.typing import NDArray

from ..media.decode import Samples
from ..speakers.devices import networks_on
from ..speakers.diarizer import Diarizer
from ..speakers.evidence import Evidence

BLOCKS_AHEAD = 2  # that may wait for the thread


class SpeakerPass:
    """One pass of a diarizer over a recording, on the device of the model or the CPU."""

    def __init__(self, device: str, threads: int) -> None:
        self._networks = networks_on(device, threads)
        self._diarizer = Diarizer(self._networks)
        self._thread = ThreadPoolExecutor(1, "speakers")
        self._waiting: deque[Future[None]] = deque(maxlen=BLOCKS_AHEAD)

    def push(self, samples: Samples, detected: NDArray[np.float32], *, last: bool) -> None:
        """Take the next samples and the probabilities of speech of the voice detector."""
        if len(self._waiting) == BLOCKS_AHEAD:
            wait([self._waiting[0]])
        before = self._waiting[-1] if self._waiting else None
        self._waiting.append(self._thread.submit(self._take, before, samples, detected, last=last))

    def _take(
        self,
        before: Future[None] | None,
        samples: Samples,
        detected: NDArray[np.float32],
        *,
        last: bool,
    ) -> None:
        if before is not None:
            before.result()  # an error goes on to the last block
        self._diarizer.push(samples, detected, last=last)

    def evidence(self) -> Evidence:
        """Wait for the last block.

        Raises:
            Exception: what the diarizer failed with.
        """
        self._waiting[-1].result()
        return self._diarizer.evidence()

    def close(self) -> None:
        """Also where the recording is broken off."""
        self._thread.shutdown(cancel_futures=True)
        self._networks.close()
