"""One device, many jobs: windows of several jobs go through the engine in one batch.

Each job runs the ordinary pipeline in a thread of its own and holds a ``SharedEngine``, which is an ``Engine`` like any
other. Its calls are carried out by the one thread that owns the device. That thread takes the batches which wait to be
encoded, up to the engine's batch size, shortest work first; the jobs that they belong to are a cohort. Whatever the
cohort's jobs ask next, detection, decoding, alignment, is gathered until each of them has asked or has gone, and calls
with equal options are one call of the engine. So a job's windows stay together, and the pipeline does not know.

A window is decoded the same whatever shares its batch: engines promise that for greedy and beam search.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from ..domain.options import EngineSpec
from ..domain.progress import Progress, no_progress
from ..domain.transcript import Notice
from ..engines import DecodingOptions, Engine, EngineInfo, EngineRequest, load_engine
from ..errors import CancelledError
from .shared import Call, Shared, SharedEngine, joined, settle, split

AGEING = (
    60.0  # seconds of audio by which a waiting batch moves forward for every second that it waits
)
KNOWN_ENGINES = 64  # so many that were loaded once are known
KNOWN_NOTICES = 256  # of this many engines and options the answer is kept
BATCHES_KEPT = 1024  # of so many batches the size is kept, for tests and figures
SWITCH_AFTER_S = 5.0  # a model is not exchanged for another's work sooner than this


class Device:
    """The thread that owns the device, and the engine that it has loaded.

    Args:
        unload_after_s: the engine is closed when nobody has used it for so long.
        load: makes an engine; the default is the table of engines.
    """

    def __init__(
        self, unload_after_s: float, load: Callable[[EngineRequest], Engine] = load_engine
    ) -> None:
        self._unload_after_s = min(unload_after_s, threading.TIMEOUT_MAX)
        self._load = load
        self._changed = threading.Condition()
        self._members: set[SharedEngine] = set()
        self._stopping = False
        self._engine: Engine | None = None
        self._choice: EngineSpec | None = None
        self._loaded_at = 0.0
        self._working_for: frozenset[SharedEngine] = frozenset()
        self._infos: dict[EngineSpec, EngineInfo] = {}
        self._notices: dict[tuple[EngineSpec, DecodingOptions], tuple[Notice, ...]] = {}
        self.batches: deque[int] = deque(
            maxlen=BATCHES_KEPT
        )  # windows in each of the last batches encoded
        self._thread = threading.Thread(target=self._run, name="device", daemon=True)
        self._thread.start()

    def open(
        self, choice: EngineSpec, left_s: float, progress: Progress = no_progress
    ) -> SharedEngine:
        """An engine for one job, which has ``left_s`` seconds of audio to do.

        Raises:
            TranscribeError: see ``engines.load_engine``.
            CancelledError: the device was stopped.
        """
        shared = SharedEngine(self, choice, left_s, progress)
        with self._changed:
            self._members.add(shared)
            known = (
                choice in self._infos
            )  # then there is no need to wait for what others do with it
        try:
            if not known:
                shared.load()
        except BaseException:
            shared.close()
            raise
        return shared

    @property
    def loaded(self) -> str:
        """The model in memory; empty where there is none."""
        choice = self._choice
        info = self._infos.get(choice) if choice is not None else None
        return info.model if info is not None else ""

    @property
    def busy_with(self) -> frozenset[SharedEngine]:
        """Whose call the engine is carrying out now."""
        return self._working_for

    def check(self) -> None:
        """
        Raises:
            RuntimeError: its thread has ended, and nobody will answer any more.
        """
        if not self._thread.is_alive():
            raise RuntimeError("the device's thread has ended")

    def stop(self) -> None:
        """End the thread after the call that it is in, and give the engine's memory back."""
        with self._changed:
            self._stopping = True
            for member in list(self._members):
                member.cancel()
            self._changed.notify_all()
        self._thread.join()

    # --- called by jobs -----------------------------------------------------------------------------------------------

    def ask(self, call: Call) -> Any:
        with self._changed:
            if call.owner.cancelled or self._stopping:
                raise CancelledError("the job was stopped")
            call.owner.waiting = call.owner.asked = call
            self._changed.notify_all()
        try:
            return call.result.result()
        finally:
            with self._changed:
                call.owner.asked = None
            del call  # neither its owner nor an error that it raised is to hold a batch that nobody needs any more

    def changed(self, change: Callable[[], None]) -> None:
        with self._changed:
            change()
            self._changed.notify_all()

    def leave(self, member: SharedEngine) -> None:
        with self._changed:
            self._members.discard(member)
            self._changed.notify_all()

    def info(self, choice: EngineSpec) -> EngineInfo:
        return self._infos[choice]

    def notices(self, member: SharedEngine, options: DecodingOptions) -> tuple[Notice, ...]:
        """Asked once for each engine and options: the engine may be at a batch, or another one in its place."""
        key = member.choice, options
        known = self._notices.get(key)
        if known is None:
            known = self.ask(Call(member, "notices", options))
            if len(self._notices) >= KNOWN_NOTICES:
                self._notices.clear()
            self._notices[key] = known
        return known

    # --- the device's own thread --------------------------------------------------------------------------------------

    def _run(self) -> None:
        while self._serve_next():
            pass
        self._close()

    def _serve_next(self) -> bool:
        """Whether to go on. While it waits for the next calls, nothing holds the batch of the last ones."""
        calls = self._next_calls()
        if calls:
            self._serve(calls)
        return calls is not None

    def _next_calls(self) -> list[Call] | None:
        """The calls to begin with: a load, or batches to encode together. Empty: look again. ``None``: stop."""
        with self._changed:
            waiting = [member.waiting for member in self._members if member.waiting is not None]
            if self._stopping:
                return None
            if not waiting:
                idle = not self._members and self._engine is not None
                if (
                    not self._changed.wait(self._unload_after_s if idle else None)
                    and not self._members
                ):
                    self._close()
                return []
            first = min(waiting, key=lambda call: self._rank(call))
            if first.kind != "encode":
                return [first]
            together = [
                c for c in waiting if c.kind == "encode" and c.owner.choice == first.owner.choice
            ]
            return self._fitting(first, sorted(together, key=self._rank))

    def _rank(self, call: Call) -> tuple[bool, float]:
        """Shortest work first; waiting makes up for length. The loaded model goes on for a while."""
        now = time.monotonic()
        settled = self._choice is None or now - self._loaded_at > SWITCH_AFTER_S
        stays = settled or call.owner.choice == self._choice
        return (not stays, call.owner.left_s - AGEING * (now - call.since))

    def _fitting(self, first: Call, others: Sequence[Call]) -> list[Call]:
        info = self._infos.get(first.owner.choice)
        room = (info.batch_size if info is not None else 1) - len(first.items)
        calls = [first]
        for call in others:
            if call is not first and len(call.items) <= room:
                calls.append(call)
                room -= len(call.items)
        return calls

    def _serve(self, calls: list[Call]) -> None:
        """Carry out calls and whatever their jobs ask until each asks for another batch or goes."""
        engine = self._engine_for(calls)
        if engine is None:
            return
        if calls[0].kind != "encode":
            self._carry_out(engine, calls)
            return
        cohort = {call.owner for call in calls}
        while calls:
            self._carry_out(engine, calls)
            calls = self._cohort_calls(cohort)

    def _cohort_calls(self, cohort: set[SharedEngine]) -> list[Call]:
        """Wait until each of the cohort has asked or gone; the calls that one call of the engine can answer."""
        with self._changed:
            while True:
                if self._stopping:
                    return []
                gone = {
                    member
                    for member in cohort
                    if member not in self._members
                    or member.cancelled
                    or member.between_batches
                    or (member.waiting is not None and member.waiting.kind == "encode")
                }
                cohort -= gone
                if not cohort:
                    return []
                waiting = [member.waiting for member in cohort if member.waiting is not None]
                if len(waiting) == len(cohort):
                    first = min(waiting, key=lambda call: call.since)
                    return [c for c in waiting if (c.kind, c.group) == (first.kind, first.group)]
                self._changed.wait()

    def _carry_out(self, engine: Engine, calls: list[Call]) -> None:
        """One call of the engine for all of them; a failure is every one's."""
        with self._changed:
            calls = [call for call in calls if call.owner.waiting is call]
            for call in calls:
                call.owner.waiting = None
            self._working_for = frozenset(call.owner for call in calls)
        if not calls:
            return
        try:
            answers = _ANSWER[calls[0].kind](self, engine, calls)
        except BaseException as error:  # noqa: BLE001 - handed to the jobs that asked, which raise it
            for call in calls:
                settle(call.result, error=error)
        else:
            for call, answer in zip(calls, answers, strict=True):
                settle(call.result, answer)
        finally:
            self._working_for = frozenset()
            if self._choice is not None:
                self._know(
                    self._choice, engine.info
                )  # it changes where the CPU takes over from a GPU

    def _engine_for(self, calls: list[Call]) -> Engine | None:
        owner = calls[0].owner
        if self._engine is not None and self._choice == owner.choice:
            return self._engine
        self._close()
        try:
            self._engine = self._load(EngineRequest(**vars(owner.choice), progress=owner.progress))
        except BaseException as error:  # noqa: BLE001 - handed to the jobs that asked, which raise it
            with self._changed:
                for call in calls:
                    call.owner.waiting = None
                    settle(call.result, error=error)
            return None
        self._choice, self._loaded_at = owner.choice, time.monotonic()
        self._know(owner.choice, self._engine.info)
        return self._engine

    def _know(self, choice: EngineSpec, info: EngineInfo) -> None:
        """Of many engines that there were, the oldest that no job uses is forgotten."""
        with self._changed:
            self._infos[choice] = info
            if len(self._infos) > KNOWN_ENGINES:
                in_use = {choice, *(member.choice for member in self._members)}
                old = next((known for known in self._infos if known not in in_use), choice)
                if old != choice:
                    del self._infos[old]

    def _close(self) -> None:
        if self._engine is not None:
            self._engine.close()
        self._engine = self._choice = None

    def _answer_load(self, engine: Engine, calls: list[Call]) -> list[None]:
        return [None for _ in calls]

    def _answer_notices(self, engine: Engine, calls: list[Call]) -> list[tuple[Notice, ...]]:
        return [engine.notices(call.group) for call in calls]

    def _answer_encode(self, engine: Engine, calls: list[Call]) -> list[Shared]:
        windows = [window for call in calls for window in call.items]
        self.batches.append(len(windows))
        whole = engine.encode(windows)
        shared, first = [], 0
        for call in calls:
            shared.append(Shared(whole, tuple(range(first, first + len(call.items)))))
            first += len(call.items)
        return shared

    def _answer_detect(self, engine: Engine, calls: list[Call]) -> list[list[Any]]:
        return split(engine.detect_language(joined(calls)), calls)

    def _answer_decode(self, engine: Engine, calls: list[Call]) -> list[list[Any]]:
        languages = [language for call in calls for language in call.items]
        return split(engine.decode(joined(calls), languages, calls[0].group), calls)

    def _answer_align(self, engine: Engine, calls: list[Call]) -> list[list[Any]]:
        decoded = [one for call in calls for one in call.items]
        return split(engine.align(joined(calls), decoded, calls[0].group), calls)


_ANSWER: dict[str, Callable[[Device, Engine, list[Call]], list[Any]]] = {
    "load": Device._answer_load,
    "notices": Device._answer_notices,
    "encode": Device._answer_encode,
    "detect": Device._answer_detect,
    "decode": Device._answer_decode,
    "align": Device._answer_align,
}
