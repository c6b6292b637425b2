"""Tensors of a file -> a GPU, through pinned memory and in one pass.

The next piece is read while the last one is copied. Reading a memory-mapped file instead costs a
page fault per 4 KiB, a copy in main memory, and a wait per tensor.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...errors import ModelFormatError
from ...models.tensors import StoredTensor

PIECE_BYTES = 16 << 20
ALIGNED_BYTES = 256


class PinnedUpload:
    """Copies tensors to one device. Use it from one thread."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._halves = [torch.empty(PIECE_BYTES, dtype=torch.uint8, pin_memory=True) for _ in "ab"]
        self._copied = [torch.cuda.Event() for _ in self._halves]
        self._half = 0
        self._used = 0

    def read(self, stored: StoredTensor) -> Tensor:
        """The bytes of a tensor: (n,) uint8 on the device.

        Raises:
            ModelFormatError: the file ends before the tensor does.
        """
        found = torch.empty(stored.n_bytes, dtype=torch.uint8, device=self._device)
        with stored.file.open("rb", buffering=0) as file:
            file.seek(stored.offset_bytes)
            for piece in found.split(PIECE_BYTES):
                room = self._room(len(piece))
                if file.readinto(room.numpy().data) < len(room):
                    raise ModelFormatError(
                        f"{stored.file} is cut short: {stored.name} is incomplete",
                        hint="download or export the model again",
                    )
                piece.copy_(room, non_blocking=True)
        return found

    def _room(self, n_bytes: int) -> Tensor:
        """Pinned memory that no copy reads any more."""
        if self._used + n_bytes > PIECE_BYTES:
            self._copied[self._half].record()
            self._half = 1 - self._half
            self._used = 0
            self._copied[self._half].synchronize()
        room = self._halves[self._half][self._used : self._used + n_bytes]
        self._used += -(-n_bytes // ALIGNED_BYTES) * ALIGNED_BYTES
        return room
