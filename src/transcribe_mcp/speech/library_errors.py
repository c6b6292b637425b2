"""Convert errors of PyTorch and CTranslate2 to ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..compat.gpu_probe import ran_out_of_memory
from ..errors import EngineFailedError, OutOfMemoryError


@contextmanager
def library_errors(
    kinds: Callable[[], tuple[type[Exception], ...]], failed: str, hint: str, no_memory: str = ""
) -> Iterator[None]:
    """
    Args:
        kinds: returns the types of the library's errors; called after an error.
        failed: the message; ``no_memory`` is the message if memory ran out.
        hint: what to do if memory ran out.

    Raises:
        OutOfMemoryError: memory ran out.
        EngineFailedError: anything else.
    """
    try:
        yield
    except kinds() as error:
        if ran_out_of_memory(error):
            raise OutOfMemoryError(f"{no_memory or failed}: {error}", hint=hint) from error
        raise EngineFailedError(f"{failed}: {error}") from error
