"""Weights reach the GPU as they are in the file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from transcribe_mcp.engines.whisper.pinned_upload import PIECE_BYTES, PinnedUpload
from transcribe_mcp.errors import ModelFormatError
from transcribe_mcp.models.tensors import Tensors

if not torch.cuda.is_available():
    pytest.skip("there is no GPU", allow_module_level=True)


def test_tensors_of_any_size_and_type_arrive_unchanged(tmp_path: Path) -> None:
    n_large = PIECE_BYTES // 2 + 1000  # in several pieces
    written = {
        "model.small": torch.randn(3, 7).half(),
        "model.large": torch.randn(n_large).bfloat16(),
        "model.odd": torch.randn(11),
        **{f"model.many{i}": torch.randn(1000, 999) for i in range(20)},
    }
    save_file(written, tmp_path / "model.safetensors")
    stored = Tensors([tmp_path / "model.safetensors"])
    upload = PinnedUpload(torch.device("cuda"))

    arrived = {
        name: upload.read(stored.get(name.removeprefix("model."), tuple(tensor.shape)))
        for name, tensor in written.items()
    }

    for name, tensor in written.items():
        assert torch.equal(arrived[name].view(tensor.dtype).view(tensor.shape).cpu(), tensor), name


def test_a_file_that_has_become_shorter_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_file({"model.weight": torch.randn(1000)}, file)
    stored = Tensors([file]).get("weight", (1000,))
    file.write_bytes(file.read_bytes()[:-100])

    with pytest.raises(ModelFormatError, match="cut short"):
        PinnedUpload(torch.device("cuda")).read(stored)
