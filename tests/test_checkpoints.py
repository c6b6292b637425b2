"""Models by name, Hub id and directory: finding, fetching, choosing, listing, removing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from local_hub import COMMIT, Hub, hub_cache_with
from small_checkpoints import Recipe, write_checkpoint

from transcribe_mcp import models
from transcribe_mcp.domain.progress import no_progress
from transcribe_mcp.errors import (
    ModelFormatError,
    ModelUnavailableError,
    TranscribeError,
    UnknownNameError,
    UsageError,
)
from transcribe_mcp.models import conversion
from transcribe_mcp.models.catalogue import ALIASES, CATALOGUE, DEMANDS, Machine, this_machine

pytestmark = pytest.mark.usefixtures("hub_cache")

GIB = 2**30
LAPTOP = Machine("cpu", 4, 16 * GIB)


def resolve(name: str, *, offline: bool = False) -> models.Checkpoint:
    return models.resolve(name, offline=offline, progress=no_progress)


# --- names ----------------------------------------------------------------------------------------


def test_every_alias_and_demand_names_a_model_of_the_catalogue() -> None:
    assert set(ALIASES.values()) <= set(CATALOGUE)
    assert {demand.model for demands in DEMANDS.values() for demand in demands} <= set(CATALOGUE)
    assert not set(ALIASES) & set(CATALOGUE)


def test_only_the_full_multilingual_models_claim_to_translate() -> None:
    translating = {name for name, entry in CATALOGUE.items() if entry.can_translate}
    assert translating == {"tiny", "base", "small", "medium", "large-v1", "large-v2", "large-v3"}


@pytest.mark.parametrize(
    ("name", "suggested"),
    [
        ("larg-v3", "large-v3"),
        ("Small", "small"),
        ("turbo-v3", "turbo"),
        ("distil-large-v35", "distil-large-v3.5"),
    ],
)
def test_an_unknown_name_suggests_the_nearest(name: str, suggested: str) -> None:
    with pytest.raises(UnknownNameError, match=name) as caught:
        resolve(name)
    assert f"did you mean {suggested}" in caught.value.hint


def test_a_name_like_nothing_is_told_where_all_names_are() -> None:
    with pytest.raises(UnknownNameError, match="there is no model 'qwertz'") as caught:
        resolve("qwertz")
    assert caught.value.hint.startswith("see all names: transcribe-mcp models list; or give the ID")


def test_a_path_that_is_not_there_and_a_file_are_told_apart_from_names(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="there is no directory"):
        resolve(str(tmp_path / "missing"))
    weights = write_checkpoint(tmp_path / "model") / "model.safetensors"
    with pytest.raises(UnknownNameError, match="is a file, but a model is a directory") as caught:
        resolve(str(weights))
    assert str(weights.parent) in caught.value.hint


def test_a_directory_is_described_by_its_own_files(tmp_path: Path) -> None:
    english = resolve(
        str(write_checkpoint(tmp_path / "a", Recipe(multilingual=False))), offline=True
    )
    assert (english.layout, english.english_only, english.can_translate) == (
        "huggingface",
        True,
        False,
    )
    undeclared = resolve(
        str(write_checkpoint(tmp_path / "b", Recipe(declared=False))), offline=True
    )
    assert (undeclared.english_only, undeclared.can_translate) == (False, None)
    cut = resolve(str(write_checkpoint(tmp_path / "c", Recipe(encoder_layers=32))), offline=True)
    assert cut.can_translate is False


def test_a_directory_in_ctranslate2_layout_is_used_as_it_is(tmp_path: Path) -> None:
    source = resolve(str(write_checkpoint(tmp_path / "model", Recipe(multilingual=False))))
    converted = conversion.ctranslate2_directory(source, "int8", no_progress)
    found = resolve(str(converted), offline=True)
    assert (found.layout, found.english_only) == ("ctranslate2", True)
    assert conversion.ctranslate2_directory(found, "source", no_progress) == converted


def test_pickled_weights_are_refused_unread(tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path / "model")
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
    with pytest.raises(
        ModelFormatError, match=r"only pickled weights \(pytorch_model.bin\)"
    ) as caught:
        resolve(str(directory))
    assert "safetensors" in caught.value.hint


def test_a_directory_without_a_model_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelFormatError, match="contains no Whisper model"):
        resolve(str(tmp_path))
    with pytest.raises(UnknownNameError):
        resolve("")


def test_a_damaged_vocabulary_is_named(tmp_path: Path) -> None:
    converted = conversion.ctranslate2_directory(
        resolve(str(write_checkpoint(tmp_path / "m"))), "int8", no_progress
    )
    (converted / "vocabulary.json").write_text("[")
    with pytest.raises(ModelFormatError, match=r"vocabulary\.json cannot be read"):
        resolve(str(converted))


# --- choosing -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cached", "machine", "language", "chosen"),
    [
        (["tiny", "small", "base"], LAPTOP, None, "small"),
        (["tiny", "small", "base"], Machine("cpu", 2, 16 * GIB), None, "base"),
        (["tiny", "small"], Machine("cpu", 8, 2 * GIB), None, "tiny"),
        (["tiny", "large-v3-turbo"], Machine("cpu", 16, None), None, "large-v3-turbo"),
        (["tiny", "distil-small.en"], LAPTOP, None, "tiny"),
        (["tiny", "distil-small.en"], LAPTOP, "en", "distil-small.en"),
        (["tiny.en"], LAPTOP, None, "tiny.en"),
        (["large-v3", "large-v3-turbo"], Machine("cuda", 2, 80 * GIB), "de", "large-v3"),
        (["large-v3", "large-v3-turbo"], Machine("cuda", 2, 6 * GIB), "de", "large-v3-turbo"),
        (["large-v3-turbo"], LAPTOP, None, "large-v3-turbo"),
    ],
)
def test_auto_takes_the_best_cached_model_that_the_machine_carries(
    hub_cache: Path, cached: list[str], machine: Machine, language: str | None, chosen: str
) -> None:
    for name in cached:
        hub_cache_with(hub_cache, name)
    choice = models.choose_model(machine, language=language, offline=True)
    assert choice.name == chosen
    assert choice.reason.startswith(f"{chosen} is ")
    assert ("supports English only" in choice.reason) == (
        CATALOGUE[chosen].english_only and language != "en"
    )


def test_auto_says_when_the_cached_model_asks_for_more_than_the_machine_has(
    hub_cache: Path,
) -> None:
    hub_cache_with(hub_cache, "large-v3-turbo")
    reason = models.choose_model(Machine("cpu", 2, 4 * GIB), offline=True).reason
    assert reason == (
        "large-v3-turbo is cached, but it needs more than this machine has (cpu, 2 cores, 4 GiB)"
    )


def test_auto_does_not_translate_with_a_model_that_cannot(hub_cache: Path) -> None:
    hub_cache_with(hub_cache, "large-v3-turbo")
    hub_cache_with(hub_cache, "base")
    machine = Machine("cpu", 16, 64 * GIB)
    assert models.choose_model(machine, task="translate", offline=True).name == "base"


def test_auto_with_nothing_cached_names_what_to_fetch(hub: Hub) -> None:
    choice = models.choose_model(Machine("cpu", 1, 1 * GIB), offline=False)
    assert choice.name == "tiny"
    assert (
        choice.reason == "tiny is the best for this machine (cpu, 1 core, 1 GiB); none was cached"
    )


def test_a_half_fetched_snapshot_is_not_cached(hub_cache: Path) -> None:
    directory = hub_cache_with(hub_cache, "small", Recipe(shards=2))
    assert models.find_cached("small") is not None
    (directory / "model-00002-of-00002.safetensors").unlink()
    assert models.find_cached("small") is None
    with pytest.raises(ModelUnavailableError):
        models.choose_model(LAPTOP, offline=True, packages=False)


def test_this_machine_has_cores_and_memory() -> None:
    machine = this_machine()
    assert machine.cores >= 1
    assert machine.memory_bytes is None or machine.memory_bytes > 2**28


# --- listing and removing -------------------------------------------------------------------------


def test_the_list_shows_the_catalogue_and_what_else_is_cached(hub_cache: Path) -> None:
    cached = hub_cache_with(hub_cache, "base")
    other = hub_cache / "models--somebody--whisper-of-mine" / "snapshots" / COMMIT
    write_checkpoint(other, Recipe(multilingual=False))
    not_whisper = hub_cache / "models--somebody--chat" / "snapshots" / COMMIT
    shutil.copytree(other, not_whisper)
    (not_whisper / "config.json").write_text('{"model_type": "llama"}')
    rows = {row.name: row for row in models.list_models()}
    assert set(rows) == {*CATALOGUE, "somebody/whisper-of-mine"}
    assert rows["base"].path == cached
    assert rows["base"].bytes_on_disk == sum(f.stat().st_size for f in cached.iterdir()) + len(
        COMMIT
    )
    assert (rows["tiny"].path, rows["tiny"].bytes_on_disk, rows["tiny"].languages) == (
        None,
        None,
        "99 languages",
    )
    assert rows["somebody/whisper-of-mine"].languages == "English"


def test_removing_frees_the_files_and_what_was_made_of_them(
    hub: Hub, hub_cache: Path, tmp_path: Path
) -> None:
    source = models.pull("tiny", no_progress)
    own = resolve(str(write_checkpoint(tmp_path / "own", Recipe(dtype="F32"))))
    made = [
        conversion.ctranslate2_directory(source, "int8", no_progress) for source in (source, own)
    ]
    size = next(row.bytes_on_disk for row in models.list_models() if row.name == "tiny")
    assert models.path("tiny") == source.directory
    assert models.remove("tiny") == size
    assert [directory.is_dir() for directory in made] == [False, True]
    assert not list(hub_cache.glob("models--*"))
    with pytest.raises(ModelUnavailableError, match="model tiny is not downloaded"):
        models.path("tiny")


def test_a_directory_of_the_users_own_is_never_removed(tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path / "model")
    with pytest.raises(UsageError, match="a directory of your own"):
        models.remove(str(directory))
    assert (directory / "model.safetensors").is_file()


def test_removing_what_is_not_there_is_an_error() -> None:
    for name, error in (("tiny", ModelUnavailableError), ("tinny", UnknownNameError)):
        with pytest.raises(TranscribeError) as caught:
            models.remove(name)
        assert type(caught.value) is error
