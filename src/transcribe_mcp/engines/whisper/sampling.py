"""Which of the tokens that may come next comes: the role that chooses.

A sample is the largest of the logits after each got noise of its own (Gumbel's), so sampling and taking the most
probable are one operation. The noise is a hash of the window's seed, the place in its text and the token: the same
window is sampled alike in whatever batch, on whatever device.
"""

from __future__ import annotations

import torch
from torch import Tensor

_WORD = 0xFFFFFFFF
BLOCK = 64  # neighbouring tokens of which at first only the likeliest is compared with others


def choose(logits: Tensor, temperature: Tensor, seed: Tensor, count: Tensor) -> Tensor:
    """The next token of each row.

    Args:
        logits: (R, V) float32, what is forbidden at minus infinity.
        temperature: (R,); 0 takes the most probable.
        seed, count: (R,) of the window, and of the tokens it has said.
    """
    ids = torch.arange(logits.shape[1], device=logits.device)
    uniform = _uniform(seed[:, None], count[:, None], ids[None])
    noise = -torch.log(-torch.log(uniform))
    return likeliest(logits + temperature[:, None] * noise)


def likeliest(logits: Tensor) -> Tensor:
    """(R, V) -> the most probable token of each row. On a CPU by NumPy, which is ten times as fast."""
    if logits.device.type != "cpu":
        return logits.argmax(dim=-1)
    return torch.from_numpy(logits.numpy().argmax(axis=-1))


def likeliest_few(logits: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """(R, V) -> the ``n`` largest of each row and their ids, the largest first: (R, n) each.

    On a CPU torch's ``topk`` of a whole row takes ten times as long as finding the blocks that hold the largest.
    """
    n_blocks = logits.shape[1] // BLOCK
    if logits.device.type != "cpu" or n_blocks < n:
        values, ids = logits.topk(n, dim=1)
        return values, ids
    blocks = logits[:, : n_blocks * BLOCK].unflatten(1, (n_blocks, BLOCK))
    best = blocks.amax(dim=2).topk(n, dim=1).indices[..., None]
    within = torch.arange(logits.shape[1])
    rest = within[n_blocks * BLOCK :].expand(len(logits), -1)
    ids = torch.cat([(best * BLOCK + within[:BLOCK]).flatten(1), rest], dim=1)
    values, at = logits.gather(1, ids).topk(n, dim=1)
    return values, ids.gather(1, at)


def log_sums(logits: Tensor) -> Tensor:
    """(R, V) -> (R,) what log-probabilities are counted from. On a CPU row by row, so that each stays in its cache."""
    if logits.device.type != "cpu":
        return logits.logsumexp(dim=-1)
    return torch.stack([row.logsumexp(dim=-1) for row in logits])


def _uniform(seed: Tensor, count: Tensor, token: Tensor) -> Tensor:
    """Numbers strictly between 0 and 1, float32."""
    word = _mix(seed & _WORD)
    word = _mix(word ^ (count & _WORD))
    word = _mix(word ^ token)
    return (
        (word >> 9).to(torch.float32) + 0.5
    ) / 2**23  # 24 bits: float32 holds them exactly, so never 1


def _mix(word: Tensor) -> Tensor:
    """A permutation of 32-bit numbers, held in int64, after which neighbours have nothing in common (lowbias32)."""
    word = (word ^ (word >> 16)) * 0x7FEB352D & _WORD
    word = (word ^ (word >> 15)) * 0x846CA68B & _WORD
    return word ^ (word >> 16)
