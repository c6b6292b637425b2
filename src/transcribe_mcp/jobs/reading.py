"""Threads for media decoding and voice detection of a job."""

from __future__ import annotations

from ..settings import cores_beside_gpu, usable_cores
from .submission import LONG_S

# Also for voice detection on the CPU. Its results are the same with up to five threads, so
# checkpoints fit any machine. Eight short jobs run at once; with 16 threads each, a GPU waited half
# of the time.
THREADS = 4
# For a long recording. Four threads decode MP3 more slowly than one GPU transcribes it.
THREADS_PER_GPU = 8


def reading_threads(device: str, duration_s: float | None, cores: int) -> int:
    """For a job on ``device``, whose worker has this many cores."""
    few = min(THREADS, cores)
    n_gpus = device.count("cuda")
    if not n_gpus or (duration_s or 0.0) <= LONG_S:
        return few
    return n_gpus * max(few, min(THREADS_PER_GPU, cores_beside_gpu(cores)))


def cores_of_worker(threads: int, n_workers: int) -> int:
    """``threads``: the setting, per worker; 0 shares the cores among workers."""
    return threads or max(1, usable_cores() // n_workers)
