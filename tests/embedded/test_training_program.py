"""The program in tools/embedded_model: what must hold whoever trains: pictures by seed, exact whitening, resuming."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

PROGRAM = Path(__file__).parents[2] / "tools" / "embedded_model"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache folder with four drawings: a red cat, a blue dog, a green car, and a silhouette of a cat."""
    monkeypatch.syspath_prepend(PROGRAM)
    drawn = [("cat", "noto", (255, 0, 0)), ("dog", "twemoji", (0, 0, 255)), ("car", "noto", (0, 255, 0))]
    drawn.append(("cat", "mdi", (255, 255, 255)))
    files = []
    for _, _, colour in drawn:
        buffer = io.BytesIO()
        Image.new("RGBA", (96, 96), (*colour, 255)).save(buffer, "WEBP", quality=90)
        files.append(buffer.getvalue())
    records = [{"noun": noun, "source": source, "name": noun, "weight": 1.0} for noun, source, _ in drawn]
    np.savez(
        tmp_path / "drawings.npz",
        webp=np.frombuffer(b"".join(files), np.uint8),
        ends=np.cumsum([len(file) for file in files]),
        records=np.frombuffer(json.dumps(records).encode(), np.uint8),
    )
    yield tmp_path
    for name in [name for name, module in sys.modules.items() if str(PROGRAM) in str(getattr(module, "__file__", ""))]:
        del sys.modules[name]


def test_equal_seeds_give_equal_pictures_and_labels_say_what_they_show(cache):
    from compose import Composer

    first, again, other = (Composer(cache, seed, torch.device("cpu")).batch(64) for seed in (1, 1, 2))
    assert torch.equal(first[0], again[0])
    assert first[1] == again[1]
    assert not torch.equal(first[0], other[0])
    images, captions, labels = first
    assert images.shape == (64, 3, 64, 64)
    assert images.min() >= 0
    assert images.max() <= 1
    for caption, label, image in zip(captions, labels.tolist(), images, strict=True):
        red, green, blue = image[:, 28:36, 28:36].mean((1, 2))
        assert (label == 0) == caption.startswith("a cat")
        if label == 0:
            assert red > 0.7 > max(green, blue)
        if label == 1:
            assert blue > 0.7 > max(red, green)


def test_no_source_of_the_gold_judge_reaches_the_others(cache):
    import drawings
    import train_judge

    assert not set(drawings.GOLD_SOURCES) & set(drawings.GENERATOR_SOURCES)
    assert train_judge.GOLD.sources == train_judge.JUDGE.unseen == drawings.GOLD_SOURCES
    assert {record.source for record in drawings.load(cache, drawings.GENERATOR_SOURCES)[1]} == {"noto", "twemoji"}


def test_muon_steps_along_an_orthogonal_matrix(cache):
    from muon import orthogonal

    values = torch.linalg.svdvals(orthogonal(torch.randn(3, 8, 20, generator=torch.Generator().manual_seed(0))))
    assert values.min() > 0.6  # the five steps bring all to about 1, by design not closer than 0.7 to 1.2
    assert values.max() < 1.3


def test_whitening_changes_the_latents_and_not_the_pictures(cache):
    import train_autoencoder
    from compose import Composer

    torch.manual_seed(0)
    model = train_autoencoder.build().eval()
    white = train_autoencoder.white(model.state_dict(), cache, number=64)
    images = Composer(cache, 998, torch.device("cpu")).batch(64)[0] * 2 - 1  # the pictures that define white
    with torch.no_grad():
        latents = torch.cat([white.encode(part).latent_dist.mean for part in images.split(128)])
        before = model.decode(model.encode(images[:8]).latent_dist.mean).sample
        after = white.decode(latents[:8]).sample
    flat = latents.transpose(0, 1).flatten(1).double()
    torch.testing.assert_close(torch.cov(flat, correction=0), torch.eye(16).double(), atol=2e-2, rtol=0)
    torch.testing.assert_close(after, before, atol=1e-3, rtol=1e-3)


def test_a_stopped_stage_goes_on_with_its_state(cache):
    import training

    stage = training.Stage("line", fitted_line, training.cosine)
    machine = training.Machine(cache, torch.device("cpu"), 1, 3 / 60)
    model = torch.nn.Linear(1, 1)
    with pytest.raises(SystemExit, match="goes on"):
        training.fit(training.Stage("line", stopping_line, training.cosine), model, machine)
    stopped = torch.load(cache / "line.pt", weights_only=True)
    assert stopped["steps"] == 50
    assert 0 < stopped["done"] < 1
    finished = training.fit(stage, torch.nn.Linear(1, 1), machine)
    assert finished["done"] == 1
    assert finished["steps"] > 50
    torch.testing.assert_close(finished["model"]["weight"], torch.tensor([[3.0]]), atol=0.05, rtol=0)


def fitted_line(model, machine, seed):
    def loss():
        x = torch.randn(32, 1)
        return (model(x) - 3 * x - 1).square().mean(), 32

    return loss


def stopping_line(model, machine, seed):
    """As a user would: SIGTERM in the middle of the 50th step."""
    import os
    import signal

    steps, inner = iter(range(50)), fitted_line(model, machine, seed)

    def loss():
        if next(steps) == 49:
            os.kill(os.getpid(), signal.SIGTERM)
        return inner()

    return loss
