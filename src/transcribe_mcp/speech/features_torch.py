"""Windows -> log-mel spectrograms in PyTorch, one batch at a time, on the device of the model.

Equal to the NumPy reference in ``features`` within 1e-4. Samples already on the device are used
there. Others go through pinned memory, so the transfer overlaps with CPU work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from .features import (
    DYNAMIC_RANGE,
    FFT_SAMPLES,
    HOP_SAMPLES,
    SILENCE,
    WINDOW_FRAMES,
    WINDOW_SAMPLES,
    mel_filters,
)
from .regions import Window

PART_WINDOWS = 16  # per transform: limits the spectra to 150 MB and still fills any GPU


@dataclass(slots=True, eq=False, weakref_slot=True)
class DeviceSamples:
    """The samples of a window on a device, (n,) float32; ``None`` once released."""

    samples: Tensor | None


def log_mel_windows(windows: Sequence[Window], n_mels: int, device: torch.device) -> Tensor:
    """Log-mel spectrograms of windows, each padded with silence to 30 s.

    Args:
        windows: each at most 30 s; ``DeviceSamples`` on ``device`` are used there.
        n_mels: 80, or 128 for large-v3 and later models.

    Returns:
        (n, n_mels, 3000) float32 on ``device``, computed asynchronously.

    Raises:
        ValueError: a window is longer than 30 s.
    """
    features = torch.empty(
        (len(windows), n_mels, WINDOW_FRAMES), dtype=torch.float32, device=device
    )
    for first in range(0, len(windows), PART_WINDOWS):
        part = windows[first : first + PART_WINDOWS]
        features[first : first + len(part)] = log_mel(padded(part, device), n_mels)
    return features


def log_mel(samples: Tensor, n_mels: int) -> Tensor:
    """Log-mel spectrograms of padded windows, on their device.

    Args:
        samples: (n, 480000) float32, mono, 16 kHz.

    Returns:
        (n, n_mels, 3000) float32.
    """
    window, filters = _constants(n_mels, samples.device)
    spectrum = torch.stft(samples, FFT_SAMPLES, HOP_SAMPLES, window=window, return_complex=True)[
        ..., :-1
    ]
    power = torch.view_as_real(spectrum).square().sum(-1)
    mel = torch.matmul(filters, power).clamp_(min=SILENCE).log10_()
    loudest = mel.amax(dim=(1, 2), keepdim=True)
    return torch.maximum(mel, loudest - DYNAMIC_RANGE).add_(4.0).div_(4.0)


def padded(windows: Sequence[Window], device: torch.device) -> Tensor:
    """The samples of windows as one batch, padded with zeros: (n, 480000) float32 on ``device``."""
    for window in windows:
        if len(window.samples) > WINDOW_SAMPLES:
            raise ValueError(
                f"a window holds at most {WINDOW_SAMPLES} samples, not {len(window.samples)}"
            )
    held = [
        window.device_samples.samples
        for window in windows
        if isinstance(window.device_samples, DeviceSamples)
    ]
    placed = [samples for samples in held if samples is not None and samples.device == device]
    if len(placed) < len(windows):
        return _sent(windows, device)
    if device.type == "cuda":
        # The samples were allocated on another stream: keep them until this stream has read them.
        stream = torch.cuda.current_stream(device)
        for samples in placed:
            samples.record_stream(stream)
    full = torch.zeros(WINDOW_SAMPLES, dtype=torch.float32, device=device)
    # One call, because each call waits for the GIL.
    return pad_sequence([*placed, full], batch_first=True)[:-1]


def _sent(windows: Sequence[Window], device: torch.device) -> Tensor:
    """Send all windows through one pinned buffer: a buffer per window takes longer than the
    encoder.
    """
    batch = torch.zeros(
        (len(windows), WINDOW_SAMPLES), dtype=torch.float32, pin_memory=device.type == "cuda"
    )
    for row, window in zip(batch, windows, strict=True):
        row[: len(window.samples)] = torch.from_numpy(window.samples)
    return batch.to(device, non_blocking=True)


@lru_cache(maxsize=8)
def _constants(n_mels: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Hann window (400,) and mel filters (n_mels, 201) on ``device``."""
    window = torch.hann_window(FFT_SAMPLES, dtype=torch.float32, device=device)
    return window, torch.from_numpy(mel_filters(n_mels)).to(device)
