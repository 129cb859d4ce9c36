"""OCR: the edit distance against its recursive definition, the wanted text, and real weights on drawn text."""

from __future__ import annotations

import functools
import sys

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont

from ddpo import media
from ddpo.rewards import load_reward, score
from ddpo.rewards.ocr import _load, edit_distance, legibility, wanted_text
from ddpo.runtime.errors import RewardError


def recursive_distance(first, second):
    """The second source: Levenshtein's distance as it is defined, from the ends of the texts."""

    @functools.cache
    def distance(i, j):
        if i == 0 or j == 0:
            return i + j
        if first[i - 1] == second[j - 1]:
            return distance(i - 1, j - 1)
        return 1 + min(distance(i - 1, j), distance(i, j - 1), distance(i - 1, j - 1))

    return distance(len(first), len(second))


def test_edit_distance_is_levenshteins():
    for first, second, distance in (("kitten", "sitting", 3), ("saturday", "sunday", 3), ("", "abc", 3), ("ab", "", 2)):
        assert edit_distance(first, second) == distance
    generator = np.random.default_rng(0)
    for _ in range(60):
        first, second = ("".join(generator.choice(list("abc"), generator.integers(0, 9))) for _ in range(2))
        assert edit_distance(first, second) == recursive_distance(first, second)


@pytest.mark.parametrize(
    ("read", "legible"),
    [
        ("Open 24 hours", 1.0),
        ("OPEN24\nHours", 1.0),
        ("we are open 24 hours a day", 1.0),  # beside it anything may stand
        ("Ｏpen ２4 hours", 1.0),  # noqa: RUF001 full width
        ("open 24 hour", 1 - 1 / 11),
        ("0pen Z4 hours", 1 - 2 / 11),
        ("we are open 24 hour", 1 - 6 / 11),  # 5 to delete, 1 to insert
        ("", 0.0),
        ("x" * 50, 0.0),
    ],
)
def test_legibility_is_one_minus_the_distance_to_the_wanted_text_over_its_length(read, legible):
    assert legibility("open 24 hours", read) == pytest.approx(legible, abs=1e-12)  # 11 letters without the spaces


@pytest.mark.parametrize(
    ("prompt", "metadata", "text"),
    [
        ('a sign that says "Open 24 hours"', {}, "Open 24 hours"),
        ("a sign that says “Open”, at night", {}, "Open"),
        ("a dog's sign that says 'it's open'", {}, "it's open"),
        ("the dogs' sign says 'open'", {}, "open"),
        ("a cat's sign ‘closed’", {}, "closed"),  # noqa: RUF001
        ('the \'big\' sign says "go" and "stop"', {}, "go"),
        ('a sign that says "go"', {"text": "stop"}, "stop"),
        ("a sign", {"text": 24}, "24"),
        ('a sign that says "go"', {"text": None}, "go"),
    ],
)
def test_the_wanted_text(prompt, metadata, text):
    assert wanted_text(prompt, metadata) == text


@pytest.mark.parametrize(
    ("prompt", "metadata"),
    [("a dog's sign", {}), ('a sign that says " "', {}), ('a sign "go"', {"text": " "}), ("the dog's and cat's", {})],
)
def test_a_prompt_without_a_text_is_named(prompt, metadata):
    with pytest.raises(RewardError, match=f"^Reward 'ocr': the prompt '{prompt}' asks for no text; put it in quotes"):
        score(load_reward("ocr"), media.Image(), torch.zeros(1, 3, 8, 8), [prompt], [metadata])


def test_without_rapidocr_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "rapidocr", None)
    with pytest.raises(
        RewardError, match=r"RapidOCR cannot be imported .*; pip install -e '\.\[ocr\]' in a clone of ddpo\.$"
    ):
        score(load_reward({"name": "ocr", "side": 123}), media.Image(), torch.zeros(1, 3, 8, 8), ['"hi"'], [{}])


def drawn(text, size, font_size):
    """A square picture `(3, size, size)` with dark blue text in the middle of light yellow."""
    picture = Image.new("RGB", (size, size), (255, 240, 120))
    ImageDraw.Draw(picture).multiline_text(
        (size / 2, size / 2), text, (20, 20, 130), ImageFont.load_default(font_size), anchor="mm"
    )
    return torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1).float() / 255


@pytest.mark.parametrize(("size", "font_size", "options"), [(512, 60, {}), (64, 12, {"side": 192})])
def test_real_weights_read_what_is_drawn_without_a_network(monkeypatch, size, font_size, options):
    pytest.importorskip("rapidocr", reason="rapidocr (extra ocr) is not installed")
    monkeypatch.setattr("socket.socket.connect", lambda *arguments: pytest.fail("the network was used"))
    images = torch.stack([drawn(text, size, font_size) for text in ("Open 24\nhours", "Open 24\nhovrs", "")])
    prompt = 'a sign that says "open 24 hours"'
    got = score(load_reward({"name": "ocr", **options}), media.Image(), images, [prompt] * 3, [{}] * 3)
    assert got == pytest.approx([1.0, 1 - 1 / 11, 0.0])


def test_the_networks_and_opencv_get_the_threads_that_are_asked_for(monkeypatch):
    engine = pytest.importorskip("rapidocr.inference_engine.onnxruntime.main", reason="rapidocr is not installed")
    import cv2

    before, given, session = cv2.getNumThreads(), [], engine.InferenceSession

    def recording(path, sess_options, providers):
        given.append((sess_options.intra_op_num_threads, sess_options.inter_op_num_threads))
        return session(path, sess_options=sess_options, providers=providers)

    monkeypatch.setattr(engine, "InferenceSession", recording)
    try:
        cv2.setNumThreads(2)
        read = _load.__wrapped__(side=192, threads=1)
        assert read(Image.fromarray((drawn("Hi", 64, 30).permute(1, 2, 0) * 255).round().byte().numpy())) == "Hi"
        assert (given, cv2.getNumThreads()) == ([(1, 1), (1, 1)], 1)  # what finds text, and what reads it
    finally:
        cv2.setNumThreads(before)
