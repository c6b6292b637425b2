"""Options in the rows of jobs: what an earlier version wrote is read, and finds its transcript
again.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from transcribe_mcp.jobs.job_options import normalized_options, options_key
from transcribe_mcp.jobs.models import JobOptions

ROWS = json.loads((Path(__file__).parent / "data" / "job_options.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["options_key"][:8])
def test_a_row_of_an_earlier_version_loads_and_keeps_its_key(row: dict[str, str]) -> None:
    options = JobOptions.loads(row["options"])

    assert options_key(options) == row["options_key"]
    assert options_key(normalized_options(options, "auto")) == row["options_key"]
    assert options.dumps() == row["options"]
