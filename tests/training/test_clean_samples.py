"""Samples in memory and in shards on disk are the same samples."""

from __future__ import annotations

import resource
import signal

import pytest
import torch
from safetensors.torch import load_file

from ddpo.runtime.errors import RunFolderError
from ddpo.training.clean_samples import CleanSamples

PARTS = [torch.arange(first, first + 3.0)[:, None, None] * torch.ones(2, 2) for first in (0, 3, 6, 9)]
BYTES = 3 * 4 * 4


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch):
    monkeypatch.setattr("ddpo.training.clean_samples.SHARD_BYTES", 1)


@pytest.mark.parametrize("memory", [0, BYTES, 2 * BYTES, 1 << 20])
def test_any_sample_comes_back_wherever_it_is_kept(tmp_path, memory):
    samples = CleanSamples(tmp_path / "shards", memory_bytes=memory)
    for part in PARTS:
        samples.add(part)
    assert len(samples) == 12
    shards = sorted((tmp_path / "shards").glob("*.safetensors")) if memory < 4 * BYTES else []
    assert len(shards) == max(0, 4 - memory // BYTES)
    for index in ([11, 0, 5, 5, 2, 9], [4], list(range(12))):
        assert samples.take(torch.tensor(index))[:, 0, 0].tolist() == index


def test_a_shard_holds_nothing_but_samples(tmp_path):
    samples = CleanSamples(tmp_path / "shards", memory_bytes=0)
    samples.add(PARTS[1])
    (shard,) = (tmp_path / "shards").iterdir()
    assert torch.equal(load_file(shard)["samples"], PARTS[1])


def test_the_next_iteration_begins_with_an_empty_folder(tmp_path):
    CleanSamples(tmp_path / "shards", memory_bytes=0).add(PARTS[0])
    samples = CleanSamples(tmp_path / "shards", memory_bytes=0)
    assert len(samples) == 0
    assert not (tmp_path / "shards").exists()


def test_what_is_kept_does_not_change_with_the_tensor_it_came_from(tmp_path):
    samples, part = CleanSamples(tmp_path / "shards", memory_bytes=1 << 20), torch.ones(2, 1)
    samples.add(part)
    part.zero_()
    assert samples.take(torch.tensor([1])).item() == 1


def test_a_disk_that_takes_no_more_is_one_sentence(tmp_path):
    (tmp_path / "shards").write_text("a file where the folder should be")
    with pytest.raises(RunFolderError, match=r"samples cannot be written .* raise algorithm.memory_gb"):
        CleanSamples(tmp_path / "shards", memory_bytes=0).add(PARTS[0])


def test_a_write_that_fails_midway_is_too(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(RunFolderError, match="cannot be written"):
            CleanSamples(tmp_path / "shards", memory_bytes=0).add(torch.zeros(1000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
