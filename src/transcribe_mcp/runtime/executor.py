"""Runs the windows of any number of recordings on the devices of one model.

A recording is opened, its feeder submits windows, and its owner collects results; see
``queue.Recording``. Windows of several recordings share batches. Without its own thread, an
executor works in the threads that wait for results, so transcribing one recording needs no other
thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from ..domain.progress import Progress
from ..domain.transcript import Notice
from ..engines import DecodingOptions, EngineInfo, GpuModel, Recognizer, VoiceDetector
from ..errors import UsageError
from .device import Device
from .queue import Claim, Recording, WindowQueue

SWITCH_AFTER_S = 5.0  # a model stays loaded this long, even if another one has more urgent work
KNOWN_MODELS = 64  # models whose info is cached, so that recordings start before they are loaded

Load = Callable[[Any, Progress], Sequence[Recognizer | GpuModel]]


class LoadedModel:
    """The devices that have the model of one spec."""

    def __init__(
        self, queue: WindowQueue, spec: Any, loaded: Sequence[Recognizer | GpuModel]
    ) -> None:
        self.spec = spec
        self.devices = [Device(queue, spec, one, len(loaded)) for one in loaded]
        self.loaded_at = time.monotonic()
        self.takes = True  # windows; otherwise another model replaces this one
        self._queue = queue
        self._is_closed = False
        self._threads = [
            threading.Thread(target=self._serve, args=(device,), name="device", daemon=True)
            for device in self.devices[1:]
        ]
        for thread in self._threads:
            thread.start()

    @property
    def info(self) -> EngineInfo:
        infos = [device.info for device in self.devices]
        notices = [notice for device in self.devices for notice in device.notices()]
        return replace(
            infos[0],
            device=",".join(dict.fromkeys(info.device for info in infos)),
            batch_size=sum(device.batch_size for device in self.devices),
            warnings=tuple(dict.fromkeys(notices)),
        )

    @property
    def is_idle(self) -> bool:
        return all(device.is_idle for device in self.devices)

    def step(self) -> bool:
        """Do the next piece of work of the first device. The others have their own threads."""
        return self.devices[0].step(takes=self.takes)

    def _serve(self, device: Device) -> None:
        while not self._is_closed:
            seen = self._queue.n_changes
            if device.step(takes=self.takes):
                self._queue.notify()
            else:
                self._queue.wait(seen)

    def rest(self) -> None:
        for device in self.devices:
            device.rest()

    def close(self) -> None:
        self._is_closed = True
        self._queue.notify()
        for thread in self._threads:
            thread.join()
        for device in self.devices:
            device.close()


class Executor:
    """See the module.

    Args:
        load: makes the models of a spec, one per device.
        own_thread: work in a thread of the executor, so that a recording can be cancelled while a
            call continues.
        unload_after_s: close the model after this time without an open recording.
    """

    def __init__(
        self,
        load: Load,
        *,
        own_thread: bool = False,
        unload_after_s: float = threading.TIMEOUT_MAX,
    ) -> None:
        self._load = load
        self._unload_after_s = min(unload_after_s, threading.TIMEOUT_MAX)
        self.queue = WindowQueue()
        self._turn = threading.Lock()  # the working thread
        self._model: LoadedModel | None = None
        self._known: dict[Any, EngineInfo] = {}
        self._notices: dict[tuple[Any, DecodingOptions], tuple[Notice, ...]] = {}
        self._is_stopping = False
        self._thread: threading.Thread | None = None
        if own_thread:
            self._thread = threading.Thread(target=self._serve, name="executor", daemon=True)
            self._thread.start()

    @classmethod
    def of(cls, *loaded: Recognizer | GpuModel) -> Executor:
        """An executor of loaded models, one per device. The CPU replaces a GPU that fails at once.

        Raises:
            TranscribeError: the CPU cannot take over.
        """
        executor = cls(lambda spec, progress: loaded)
        executor._switch(None, lambda *_: None)
        return executor

    # --- for programs --------------------------------------------------------------------------

    def open(self, claim: Claim = Claim()) -> Recording:  # noqa: B008 - it is frozen
        """A recording for one owner, who closes it. ``Recording.load`` waits for its model.

        Raises:
            UsageError: the program has closed the executor.
        """
        if self._is_stopping and self._thread is None:
            raise UsageError("the engine is closed", hint="load it again with load_engine")
        recording = Recording(self.queue, claim, self)
        with self.queue.changed:
            recording.known_info = self._known.get(claim.spec)
            self.queue.recordings.add(recording)
            self.queue.notify()
        return recording

    @property
    def info(self) -> EngineInfo:
        """The info of the loaded model."""
        assert self._model is not None
        return self._model.info

    @property
    def models(self) -> list[Recognizer]:
        """The models, one per device. Direct calls are neither split nor retried on failure."""
        return [device.model for device in self._model.devices] if self._model is not None else []

    @property
    def loaded_spec(self) -> Any | None:
        """The spec of the model in memory."""
        return self._model.spec if self._model is not None else None

    @property
    def loaded(self) -> str:
        """The name of the model in memory; empty when there is none."""
        model = self._model
        return model.devices[0].info.model if model is not None else ""

    def busy(self) -> list[frozenset[Recording]]:
        """The owners of each call in progress."""
        model = self._model
        devices = model.devices if model is not None else []
        return [owners for device in devices for owners in list(device.at_work.values())]

    def check(self) -> None:
        """
        Raises:
            RuntimeError: its thread has ended, so no work will be done.
        """
        if self._thread is not None and not self._thread.is_alive():
            raise RuntimeError("the thread of the executor has ended")

    def close(self) -> None:
        """Cancel all recordings and free all memory after the call in progress."""
        self._is_stopping = True
        for recording in list(self.queue.recordings):
            recording.cancel()
        self.queue.notify()
        if self._thread is not None:
            self._thread.join()
        self._unload()

    # --- for recordings ------------------------------------------------------------------------

    def notices(self, spec: Any, options: DecodingOptions) -> tuple[Notice, ...]:
        model = self._model
        key = (spec, options)
        if key not in self._notices and model is not None and model.spec == spec:
            if len(self._notices) >= KNOWN_MODELS:
                self._notices.clear()
            self._notices[key] = model.devices[0].model.notices(options)
        return self._notices.get(key, ())

    def voice_detector(self, spec: Any) -> VoiceDetector | None:
        model = self._model
        return model.devices[0].voice_detector() if model and model.spec == spec else None

    def work(self, seen: int) -> None:
        """Do a piece of work, or wait for a change after ``seen``."""
        if self._thread is None and self._turn.acquire(blocking=False):
            try:
                did = self._step()
            finally:
                self._turn.release()
            if did:
                self.queue.notify()  # another thread may continue if this one is done
                return
        self.queue.wait(seen)

    def closed(self) -> None:
        """Without recordings, only the caller's thread is needed."""
        if self._thread is None and not self.queue.recordings and self._model is not None:
            self._model.rest()

    # --- the thread that works -----------------------------------------------------------------

    def _serve(self) -> None:
        while not self._is_stopping:
            seen = self.queue.n_changes
            if self._step():
                continue
            is_idle = self._model is not None and not self.queue.recordings
            changed = self.queue.wait(seen, self._unload_after_s if is_idle else None)
            if not changed and not self.queue.recordings:
                self._unload()

    def _step(self) -> bool:
        model = self._model
        with self.queue.changed:
            stays = model is not None and time.monotonic() - model.loaded_at < SWITCH_AFTER_S
            first = self.queue.first(model.spec if model is not None and stays else None)
        is_other = first is not None and (model is None or first.claim.spec != model.spec)
        if first is not None and is_other and (model is None or model.is_idle):
            self._load_for(first)
            return True
        if model is None:
            return False
        model.takes = not is_other
        did = model.step()
        self._know(model)
        return did or (is_other and model.is_idle)

    def _load_for(self, recording: Recording) -> None:
        try:
            self._switch(recording.claim.spec, recording.claim.progress)
        except BaseException as error:  # noqa: BLE001 - its owners raise it
            with self.queue.changed:
                requested = [
                    one for one in self.queue.recordings if one.claim.spec == recording.claim.spec
                ]
            self.queue.fail(frozenset(requested), error)

    def _switch(self, spec: Any, progress: Progress) -> None:
        self._unload()
        self._model = LoadedModel(self.queue, spec, self._load(spec, progress))
        self._know(self._model)

    def _know(self, model: LoadedModel) -> None:
        """Update the recordings' info: a device may have failed, or memory may be exhausted."""
        info = model.info
        if info == self._known.get(model.spec):
            return
        with self.queue.changed:
            self._known[model.spec] = info
            for recording in self.queue.recordings:
                if recording.claim.spec == model.spec:
                    recording.known_info = info
            if len(self._known) > KNOWN_MODELS:
                in_use = {model.spec, *(one.claim.spec for one in self.queue.recordings)}
                old = next((spec for spec in self._known if spec not in in_use), None)
                self._known.pop(old, None)
            self.queue.notify()

    def _unload(self) -> None:
        model = self._model
        self._model = None
        if model is not None:
            model.close()
