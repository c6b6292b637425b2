"""Trains the model on shards of speech while they are still being made.

The learning rate follows the share of --total-seconds gone, so that a run can be cut into several
commands: each resumes from STATE (all of it) or, where that is lost, from the averaged weights
alone.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from batches import Batch, Renderer, plan_forever
from evaluate import held_out_batch, score
from make_speech import SHARD_SAMPLES
from model import Shape, Whisper
from noise import noise_bank
from speech import N_PHONEME_CLASSES
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional
from windows import Ids

PEAK_RATE = 2e-3
WARM_UP_STEPS = 600
SHORT_UNTIL = 0.16  # share of the time spent on short windows
DECAY_FROM = 0.35  # share from which the learning rate falls linearly to almost nothing
GUIDE_WEIGHT = 0.15
PHONEME_WEIGHT = 0.3
LABEL_SMOOTHING = 0.02
AVERAGE_DECAY = 0.9985
WEIGHT_FILE_BYTES = 15_000_000
AHEAD_BATCHES = 12
SHOW_EVERY_STEPS = 100
EVALUATE_EVERY_S = 120.0


class Pool:
    """The samples of all shards on the device, filled by a thread as shards appear."""

    def __init__(self, folder: Path, n_shards: int, device: torch.device) -> None:
        self.samples = torch.zeros(n_shards * SHARD_SAMPLES, dtype=torch.int16, device=device)
        self._folder = folder
        self._n_shards = n_shards
        self.loaded = 0
        self._stream = torch.cuda.Stream() if device.type == "cuda" else None
        for stale in folder.glob("*.ready"):
            stale.unlink()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        done: set[str] = set()
        while self.loaded < self._n_shards:
            for path in sorted(self._folder.glob("*.npy")):
                index = int(path.stem.removeprefix("shard_"))
                if path.name in done or index >= self._n_shards:
                    continue
                samples = torch.from_numpy(np.load(path))
                place = self.samples[index * SHARD_SAMPLES : (index + 1) * SHARD_SAMPLES]
                if self._stream:
                    with torch.cuda.stream(self._stream):
                        place.copy_(samples.pin_memory(), non_blocking=True)
                    self._stream.synchronize()
                else:
                    place.copy_(samples)
                path.with_suffix(".ready").touch()
                done.add(path.name)
                self.loaded += 1
            time.sleep(0.5)


def labels_of(batch: Batch, ids: Ids) -> np.ndarray:
    """(b, t) int64: what each position should say next, -100 where nothing is learned."""
    labels = batch.ids[:, 1:].astype(np.int64)
    position = np.arange(1, batch.ids.shape[1])[None]
    labels[(position >= batch.n_ids[:, None]) | (position <= batch.n_prompt[:, None])] = -100
    empty = batch.n_ids == 5
    labels[empty, 0] = ids.no_speech
    labels[empty, 1] = -100
    return labels


@dataclass(frozen=True, slots=True)
class Truth:
    """A batch's answers on the device."""

    learned: Tensor  # (m,) positions of the flattened (b, t) that are learned
    labels: Tensor  # (m,) what they should say next
    spans: Tensor  # (b, t, 2) encoder frames
    phonemes: Tensor  # (b, n) classes

    @classmethod
    def of(cls, batch: Batch, ids: Ids, device: torch.device) -> Truth:
        labels = labels_of(batch, ids).ravel()
        learned = np.flatnonzero(labels >= 0)
        arrays = (
            learned,
            labels[learned],
            batch.spans[:, 1:].astype(np.int32),
            batch.phonemes.astype(np.int64),
        )
        return cls(*(torch.from_numpy(array).to(device, non_blocking=True) for array in arrays))


def guide_loss(scores: list[Tensor], spans: Tensor) -> Tensor:
    """How far the guided heads look from where the next token is heard: mean of -log attention over
    its frames.
    """
    total = torch.zeros((), device=spans.device)
    count = 0
    first = spans[..., 0]
    last = spans[..., 1]
    frame = torch.arange(scores[0].shape[3], device=spans.device)
    inside = (frame >= first[..., None]) & (frame < last[..., None])  # (b, t, n)
    weight = inside / (last - first).clamp(min=1)[..., None]
    known = (first >= 0).sum().clamp(min=1)
    for layer in scores:
        for head in range(layer.shape[1]):
            total = (
                total
                - (functional.log_softmax(layer[:, head].float(), dim=-1) * weight).sum() / known
            )
            count += 1
    return total / count


def losses(model: Whisper, mel: Tensor, ids: Tensor, truth: Truth) -> tuple[Tensor, ...]:
    """Token, guide and phoneme loss of one batch."""
    learned = truth.learned
    labels = truth.labels
    spans = truth.spans
    phonemes = truth.phonemes
    audio = model.encoder(mel)
    hidden, scores = model.decoder(ids, audio)
    logits = model.logits(hidden.flatten(0, 1)[learned]).float()
    token = functional.cross_entropy(logits, labels, label_smoothing=LABEL_SMOOTHING)
    phoneme = functional.cross_entropy(
        model.phonemes(audio).float().flatten(0, 1), phonemes.flatten()
    )
    return token, guide_loss(scores, spans), phoneme


@dataclass(slots=True)
class Trainer:
    """Model, optimizer, averaged weights and the clock they share."""

    model: Whisper
    total_s: float
    elapsed_s: float = 0.0
    step: int = 0
    optimizer: torch.optim.Optimizer = field(init=False)
    averaged: list[Tensor] = field(init=False)

    def __post_init__(self) -> None:
        matrices = [p for p in self.parameters if p.ndim >= 2]
        vectors = [p for p in self.parameters if p.ndim < 2]
        groups = [
            {"params": matrices, "weight_decay": 0.02},
            {"params": vectors, "weight_decay": 0.0},
        ]
        fused = next(self.model.parameters()).device.type == "cuda"
        self.optimizer = torch.optim.AdamW(groups, lr=PEAK_RATE, betas=(0.9, 0.98), fused=fused)
        self.averaged = [p.detach().clone() for p in self.parameters]

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        return [p for p in self.model.parameters() if p.requires_grad]

    def rate(self, share: float) -> float:
        warm = min(1.0, (self.step + 1) / WARM_UP_STEPS)
        fall = min(1.0, max(0.0, (1 - share) / (1 - DECAY_FROM)))
        return PEAK_RATE * warm * max(fall, 0.005)

    def update(self, loss: Tensor, share: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(share)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0, foreach=True)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        decay = min(AVERAGE_DECAY, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self.averaged, [p.detach() for p in self.parameters], 1 - decay)

    def swap(self) -> None:
        """Exchanges the weights with the averaged ones."""
        for p, q in zip(self.parameters, self.averaged, strict=True):
            held = p.data.clone()
            p.data.copy_(q)
            q.copy_(held)

    def save(self, path: Path) -> None:
        state = {
            "model": self.model.state_dict(),
            "averaged": self.averaged,
            "optimizer": self.optimizer.state_dict(),
        }
        torch.save(
            {**state, "elapsed_s": self.elapsed_s, "step": self.step}, path.with_suffix(".part")
        )
        path.with_suffix(".part").replace(path)

    def load(self, path: Path) -> None:
        state = torch.load(path, map_location=next(self.model.parameters()).device)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.averaged = state["averaged"]
        self.elapsed_s = state["elapsed_s"]
        self.step = state["step"]


def save_weights(trainer: Trainer, folder: Path) -> None:
    """Averaged weights in half precision, in files of at most WEIGHT_FILE_BYTES."""
    trainer.swap()
    parts: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in trainer.model.state_dict().items():
        half = tensor.detach().half().cpu()
        if size + half.nbytes > WEIGHT_FILE_BYTES:
            parts.append({})
            size = 0
        parts[-1][name] = half
        size += half.nbytes
    trainer.swap()
    folder.mkdir(parents=True, exist_ok=True)
    for i, part in enumerate(parts):
        torch.save(part, folder / f"weights_{i}.pt")
    about = {
        "shape": trainer.model.shape.as_dict(),
        "elapsed_s": trainer.elapsed_s,
        "step": trainer.step,
    }
    (folder / "weights.json").write_text(json.dumps(about))


def load_weights(folder: Path) -> tuple[dict[str, Tensor], dict[str, object]]:
    state: dict[str, Tensor] = {}
    for path in sorted(folder.glob("weights_*.pt")):
        state |= {
            name: tensor.float() for name, tensor in torch.load(path, map_location="cpu").items()
        }
    return state, json.loads((folder / "weights.json").read_text())


def kind_for(share: float, step: int) -> str:
    if share < SHORT_UNTIL:
        return "short"
    return "long" if step % 5 == 0 else "full"


class Planners:
    """Processes that plan batches ahead of the steps that use them."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        context = multiprocessing.get_context("spawn")
        self._asked = context.Queue()
        self._planned = context.Queue()
        self._share = arguments.batch
        tokenizer = arguments.text / "tokenizer.json"
        for i in range(arguments.planners):
            seed = int(time.time()) * 100 + i
            work = (arguments.speech, tokenizer, seed, self._asked, self._planned)
            context.Process(target=plan_forever, args=work, daemon=True).start()

    def ask(self, kind: str) -> None:
        self._asked.put((kind, self._share))

    def take(self) -> Batch:
        batch: Batch = self._planned.get()
        return batch


def restored(arguments: argparse.Namespace, vocabulary: int, device: torch.device) -> Trainer:
    """The trainer as the last command left it, or with its weights only, or new."""
    model = Whisper(Shape(vocabulary), N_PHONEME_CLASSES).to(device)
    trainer = Trainer(model, arguments.total_seconds)
    if arguments.state.exists():
        trainer.load(arguments.state)
    elif arguments.weights:
        state, about = load_weights(arguments.weights)
        model.load_state_dict({name: tensor.to(device) for name, tensor in state.items()})
        trainer = Trainer(model, arguments.total_seconds, float(str(about["elapsed_s"])))
    return trainer


def learn(trainer: Trainer, renderer: Renderer, batch: Batch, ids: Ids, share: float) -> str:
    """One step; returns its losses in words, read off the device only when printed."""
    device = next(trainer.model.parameters()).device
    n_mels = 128 if batch.kind == "full" and trainer.step % 8 == 3 else 80
    mel = renderer.mel(renderer.wave(batch), n_mels, batch.pad_from)
    for _ in range(2):  # SpecAugment's frequency masks
        low = int(np.random.randint(0, n_mels - 8))
        mel[:, low : low + int(np.random.randint(0, 8))] = 0
    tokens = torch.from_numpy(batch.ids.astype(np.int64)).to(device, non_blocking=True)
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        token, guide, phoneme = losses(
            trainer.model, mel, tokens[:, :-1], Truth.of(batch, ids, device)
        )
    trainer.update(token + GUIDE_WEIGHT * guide + PHONEME_WEIGHT * phoneme, share)
    if trainer.step % SHOW_EVERY_STEPS:
        return ""
    return (
        f"{batch.kind:5s}  token {token.item():.3f}  guide {guide.item():.3f}  phoneme "
        f"{phoneme.item():.3f}"
    )


def run(arguments: argparse.Namespace) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(int(time.time()))
    torch.set_float32_matmul_precision("high")
    deadline = time.monotonic() + arguments.seconds
    tokenizer_path = arguments.text / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(tokenizer_path))
    ids = Ids.of(tokenizer)
    planners = Planners(arguments)
    pool = Pool(arguments.speech, arguments.shards, device)
    noises = torch.from_numpy(noise_bank(arguments.noise_clips, 30.0, 5)).to(device)
    renderer = Renderer(pool.samples, noises, device)
    trainer = restored(arguments, tokenizer.get_vocab_size(), device)
    held_out = (
        held_out_batch(arguments.held_out, device, arguments.windows)
        if arguments.held_out
        else None
    )
    already = trainer.elapsed_s
    begun = time.monotonic()
    for _ in range(AHEAD_BATCHES):
        planners.ask(kind_for(already / trainer.total_s, 1))
    evaluated = begun

    def judge() -> None:
        save_weights(trainer, arguments.out)
        if held_out:
            trainer.swap()
            print(
                (
                    f"held out, after {trainer.elapsed_s:.0f} s: "
                    f"{score(trainer.model, renderer, held_out, tokenizer)}"
                ),
                flush=True,
            )
            trainer.swap()

    while time.monotonic() < deadline and trainer.elapsed_s < trainer.total_s:
        share = trainer.elapsed_s / trainer.total_s
        planners.ask(kind_for(share, trainer.step + AHEAD_BATCHES))
        shown = learn(trainer, renderer, planners.take(), ids, share)
        trainer.elapsed_s = already + time.monotonic() - begun
        if shown:
            about = (
                f"{trainer.elapsed_s:6.0f} s  step {trainer.step:6d}  rate "
                f"{trainer.rate(share):.2e}"
            )
            print(f"{about}  {shown}  shards {pool.loaded}", flush=True)
        if time.monotonic() - evaluated > EVALUATE_EVERY_S:
            judge()
            evaluated = time.monotonic()
    trainer.save(arguments.state)
    judge()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("text", type=Path, help="folder of text.py's output")
    add("speech", type=Path, help="folder of make_speech.py's shards")
    add("out", type=Path, help="folder for the weights")
    add("--held-out", type=Path, help="folder of make_speech.py --held-out's shards")
    add(
        "--shards",
        type=int,
        default=900,
        help="most shards to keep on the device (38 MB each; default 900)",
    )
    add("--seconds", type=float, default=1020, help="how long this command may run (default 1020)")
    add(
        "--total-seconds",
        type=float,
        default=1000,
        help="how long all commands train together (default 1000)",
    )
    add(
        "--state",
        type=Path,
        default=Path("whisper_nano_state.pt"),
        help="resumed from if there, written at the end",
    )
    add("--weights", type=Path, help="weights to resume from when there is no state")
    add("--planners", type=int, default=5, help="planning processes (default 5)")
    add(
        "--noise-clips", type=int, default=200, help="clips of 30 s in the noise bank (default 200)"
    )
    add("--windows", type=int, default=96, help="held-out windows (default 96)")
    add(
        "--batch",
        type=float,
        default=1.0,
        help="scales every batch, for a trial on a small machine",
    )
    run(parser.parse_args())


if __name__ == "__main__":
    main()
