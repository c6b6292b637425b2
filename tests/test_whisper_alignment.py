"""Where tokens are said, found in attention: the search for a path, and what it is searched in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from transcribe_mcp.engines.whisper import alignment  # noqa: E402
from transcribe_mcp.engines.whisper.caches import AudioCache, AudioRow  # noqa: E402


def test_a_path_through_a_table_is_the_one_that_a_search_cell_by_cell_finds() -> None:
    random = torch.Generator().manual_seed(1)
    cost = torch.randn((3, 9, 40), generator=random)
    sizes = [(9, 40), (5, 33), (1, 20)]

    found = alignment.path_starts(
        cost, [tokens for tokens, _ in sizes], [width for _, width in sizes]
    )

    for table, (tokens, width), starts in zip(cost, sizes, found, strict=True):
        assert starts == cell_by_cell(table[:tokens, :width].numpy())


def cell_by_cell(cost: Any) -> list[int]:
    tokens, width = cost.shape
    total = np.full((tokens + 1, width + 1), np.inf)
    total[0, 0] = 0
    for i in range(1, tokens + 1):
        for j in range(1, width + 1):
            total[i, j] = cost[i - 1, j - 1] + min(
                total[i - 1, j - 1], total[i - 1, j], total[i, j - 1]
            )
    i, j, starts = tokens, width, [0] * tokens
    while i > 0:
        starts[i - 1] = j - 1
        steps = {
            (i - 1, j - 1): total[i - 1, j - 1],
            (i - 1, j): total[i - 1, j],
            (i, j - 1): total[i, j - 1],
        }
        i, j = min(steps, key=steps.__getitem__)
    return starts


def test_smoothing_takes_medians_of_seven() -> None:
    weights = torch.randn((2, 3, 4, 50), generator=torch.Generator().manual_seed(2))
    mirrored = torch.nn.functional.pad(weights, (3, 3, 0, 0), mode="reflect")

    expected = mirrored.unfold(-1, 7, 1).median(dim=-1).values.mean(dim=1)

    assert torch.equal(alignment.smoothed(weights), expected)


def test_alignment_heads_score_in_float32_what_is_kept_in_bfloat16() -> None:
    """Scores rounded to bfloat16 moved one word start in 100."""
    random = torch.Generator().manual_seed(7)
    values = 4 * torch.randn((1, 1, 2, 3, 60, 64), generator=random).bfloat16()
    queries = torch.randn((2, 9, 64), generator=random).bfloat16()

    rounded, exact = (
        alignment.attention(((0, 0), (0, 2)), [AudioRow(AudioCache(kept, None), 0)], [asked], [60])
        for kept, asked in ((values, queries), (values.float(), queries.float()))
    )

    assert torch.equal(rounded, exact)
