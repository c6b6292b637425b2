"""Real wheels of 2024 and 2025 that abort where cuDNN is missing. Needs the package index: 110 MB.

Run with ``TRANSCRIBE_MCP_TEST_INDEX=1 pytest tests/compat/test_compat_old_wheels.py``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from patience import PATIENCE_S

pytestmark = pytest.mark.skipif(
    not os.environ.get("TRANSCRIBE_MCP_TEST_INDEX") or sys.platform != "linux",
    reason=(
        "installs old wheels from the package index; set TRANSCRIBE_MCP_TEST_INDEX=1 (Linux x86_64)"
    ),
)


@pytest.mark.parametrize(("version", "code"), [("4.4.0", "TM202"), ("4.6.2", "TM203")])
def test_an_old_ctranslate2_that_kills_its_process_is_reported_with_its_code(
    version: str, code: str, tmp_path: Path
) -> None:
    wheel = f"ctranslate2=={version}"
    site = str(tmp_path / "site")
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--target",
        site,
        wheel,
    ]
    subprocess.run(command, check=True, timeout=PATIENCE_S)
    doctor = [sys.executable, "-m", "transcribe_mcp.compat", "doctor", "--deep", "--json"]
    environment = {**os.environ, "PYTHONPATH": site}
    done = subprocess.run(
        doctor, capture_output=True, text=True, timeout=PATIENCE_S, env=environment
    )
    answer = json.loads(done.stdout)
    assert answer["facts"]["packages.installed"]["value"]["ctranslate2"] == version
    assert answer["facts"]["deep.ctranslate2.cudnn"]["value"]["end"] == "signal 6"
    assert (
        answer["facts"]["deep.ctranslate2.cpu"]["value"]["end"] == "ok"
    )  # without a GPU nobody opens that cuDNN
    found = {finding["code"]: finding for finding in answer["findings"]}
    assert found[code]["severity"] == "crash" and done.returncode == 2
