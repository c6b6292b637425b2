"""The text of a running job as it grows."""

from __future__ import annotations

from .service import Service


def settled_text(service: Service, job_id: str) -> str:
    """The part of the text that later results only extend; "" if there is none yet.

    Raises:
        JobNotFoundError: no job has this id.
    """
    from ..jobs.partial import partial_transcript

    store = service.read_store()
    return partial_transcript(store.row(job_id), store.steps(job_id), settled_only=True).text
