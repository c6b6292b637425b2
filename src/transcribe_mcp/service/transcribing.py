"""Transcribe recordings at once, in this process or with a worker's model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..domain.languages import AUTO
from ..domain.options import EngineSpec, FormatOptions, Options
from ..domain.progress import Progress, ShowText, no_progress, show_no_text
from ..errors import CancelledError, TranscribeError, UsageError

if TYPE_CHECKING:
    from ..domain.transcript import Transcript
    from ..formats import Format
    from ..jobs.model_client import WorkerModel
    from ..media.inputs import Recording
    from ..runtime.executor import Executor


@dataclass(frozen=True, slots=True)
class TranscribeRequest:
    """One call of a user: what to transcribe, with what, and what to make of it.

    Attributes:
        sources: files, directories, glob patterns, URLs, or ``-`` for standard input.
        spec: the engine and model. Its threads are also those for reading and voice detection.
        formats: names from ``formats.FORMATS``.
        output_dir: where a file per recording and format is written; ``None`` writes nothing.
        overwrite: replace files that are there.
        skip_existing: skip recordings whose files all exist, and existing files of the others.
        use_worker: use the model that a worker of the data directory has loaded, if any.
    """

    sources: tuple[str, ...]
    spec: EngineSpec = field(default_factory=EngineSpec)
    options: Options = field(default_factory=Options)
    formats: tuple[str, ...] = ("txt",)
    output_dir: Path | None = None
    overwrite: bool = False
    skip_existing: bool = False
    look: FormatOptions = field(default_factory=FormatOptions)
    use_worker: bool = True


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one source: a transcript, its texts by format and its files, or an error.

    ``is_skipped``: its files existed before.
    """

    source: str
    transcript: Transcript | None = None
    texts: dict[str, str] = field(default_factory=dict)
    outputs: tuple[Path, ...] = ()
    error: TranscribeError | None = None
    is_skipped: bool = False

    @property
    def warnings(self) -> tuple[str, ...]:
        return (
            tuple(notice.message for notice in self.transcript.warnings) if self.transcript else ()
        )

    def to_json(self) -> dict[str, Any]:
        failed = self.error
        return {
            "source": self.source,
            "status": "failed" if failed else "skipped" if self.is_skipped else "completed",
            "error": {"code": failed.code, "message": str(failed), "hint": failed.hint}
            if failed
            else None,
            "outputs": [str(path) for path in self.outputs],
            "transcript": self.transcript.to_json() if self.transcript else None,
        }


def spellings_of(source: str) -> set[str]:
    """What the outcome of a single file, URL or ``-`` may call it."""
    from ..media.source_names import bare_url, existing_name

    return {bare_url(source), str(Path(existing_name(source)))}


def transcribe(
    request: TranscribeRequest,
    progress: Progress = no_progress,
    show_text: ShowText = show_no_text,
    note: ShowText = show_no_text,
) -> Iterator[Outcome]:
    """Transcribe every source; yields each outcome once its files are written.

    A bad recording does not stop the others. ``progress`` also gets ``file``: number and count.
    ``note`` receives a line about the worker that is used, or why none is.

    Raises:
        UsageError: the request itself is wrong; no recording has been transcribed then.
        OutputError: nothing can be written to the output directory.
        ModelError, EngineError: no engine could be loaded.
    """
    from ..formats import require_writable
    from ..jobs.model_client import WorkerLostError
    from ..media.inputs import find_recordings, output_paths
    from .remote import no_source, usable

    work = _Work.of(request, progress, show_text)
    recordings, missing = usable(*find_recordings(request.sources), offline=request.spec.offline)
    if not recordings and not missing:
        raise no_source()
    extensions = [form.extension for form in work.formats.values()]
    outputs = output_paths(recordings, request.output_dir, extensions) if request.output_dir else {}
    yield from (Outcome(source, error=error) for source, error in missing)
    if not recordings:
        return
    if request.output_dir:
        require_writable(request.output_dir)
    skipped = {one for one in recordings if work.is_done(outputs.get(one.path, {}))}
    model = work.model(recordings, note) if len(skipped) < len(recordings) else None
    try:
        for number, recording in enumerate(recordings):
            progress("file", number, len(recordings))
            targets = outputs.get(recording.path, {})
            if recording in skipped or model is None:
                yield Outcome(recording.source, outputs=tuple(targets.values()), is_skipped=True)
                continue
            try:
                outcome = work.do(recording, model, targets)
            except WorkerLostError as lost:
                note(f"the worker is no longer used: {lost}")
                model.close()
                model = engine_of(request.spec, progress)
                outcome = work.do(recording, model, targets)
            yield outcome
    finally:
        if model is not None:
            model.close()


@dataclass(frozen=True, slots=True)
class _Work:
    """A request, checked."""

    options: Options
    formats: dict[str, Format]
    request: TranscribeRequest
    progress: Progress
    show_text: ShowText

    @classmethod
    def of(cls, request: TranscribeRequest, progress: Progress, show_text: ShowText) -> _Work:
        from ..formats import find_format
        from ..settings import settings
        from .voices import require_known

        require_known(request.options.voices)
        return cls(
            options=replace(request.options, threads=request.spec.threads or settings().threads),
            formats={name: find_format(name) for name in request.formats},
            request=request,
            progress=progress,
            show_text=show_text,
        )

    def is_done(self, outputs: dict[str, Path]) -> bool:
        """Whether a recording is left out because its files are all there."""
        return (
            self.request.skip_existing
            and bool(outputs)
            and all(path.is_file() for path in outputs.values())
        )

    def model(self, recordings: Sequence[Recording], note: ShowText) -> Executor | WorkerModel:
        """The model of a worker that has it loaded; else it is loaded here.

        Standard input can be read only once, so a worker that ends would lose it.
        """
        from ..jobs.model_client import WorkerLostError, find_model
        from ..jobs.models import JobOptions
        from ..media.inputs import STANDARD_INPUT
        from ..settings import settings

        is_piped = any(recording.remote == STANDARD_INPUT for recording in recordings)
        if self.request.use_worker and not is_piped:
            spec = _settled(self.request.spec)
            if Path(spec.model).is_dir():  # as jobs name it
                spec = replace(spec, model=str(Path(spec.model).absolute()))
            try:
                options = JobOptions(**vars(self.options) | vars(spec))
                model = find_model(settings().data_dir, options)
            except WorkerLostError as error:
                note(f"no worker is used: {error}")
            else:
                note("using the model that a worker has loaded")
                return model
        return engine_of(self.request.spec, self.progress)

    def transcript(self, path: Path, model: Executor | WorkerModel) -> Transcript:
        from ..jobs.model_client import WorkerModel

        if isinstance(model, WorkerModel):
            return model.transcribe(path, self.progress, self.show_text)
        from ..pipeline.offline import transcribe as run_pipeline

        return run_pipeline(path, model, self.options, self.progress, show_text=self.show_text)

    def do(
        self, recording: Recording, model: Executor | WorkerModel, outputs: dict[str, Path]
    ) -> Outcome:
        """Transcribe one recording. Errors that every recording would raise are raised."""
        from ..formats import plan, render, write
        from .remote import local_file

        overwrite = self.request.overwrite
        try:
            paths = plan(
                list(outputs.values()),
                overwrite=overwrite,
                skip_existing=self.request.skip_existing,
            )
            with local_file(recording, self.progress) as path:
                transcript = self.transcript(path, model)
            if recording.remote:
                transcript = replace(transcript, source=recording.remote)
            texts = {name: render(transcript, name, self.request.look) for name in self.formats}
            for name, form in self.formats.items() if outputs else ():
                if outputs[form.extension] in paths:
                    write(
                        transcript,
                        name,
                        outputs[form.extension],
                        overwrite=overwrite,
                        options=self.request.look,
                    )
        except (CancelledError, UsageError):
            raise
        except TranscribeError as error:
            return Outcome(recording.source, error=error)
        return Outcome(recording.source, transcript, texts, tuple(paths))


def engine_of(spec: EngineSpec, progress: Progress) -> Executor:
    """Load the engine of a request, with the settings filled in; see ``load_engine``."""
    from ..engines.malloc import share_arenas
    from ..runtime.loading import load_engine
    from ..settings import usable_cores

    share_arenas(usable_cores())
    return load_engine(_settled(spec), progress)


def _settled(spec: EngineSpec) -> EngineSpec:
    """With the settings filled in."""
    from ..settings import settings

    set_up = settings()
    return replace(
        spec,
        model=set_up.model if spec.model == AUTO else spec.model,
        threads=spec.threads or set_up.threads,
        offline=spec.offline or set_up.offline,
    )
