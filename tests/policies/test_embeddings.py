"""`EmbeddingCache`: each text is embedded once, as long as there is room."""

from __future__ import annotations

import torch

from ddpo.policies.embeddings import EmbeddingCache

CPU = torch.device("cpu")
SIZE = 4 * 3
"""Bytes of one embedding of three numbers."""


class Encoder:
    """Embeds a text as three times its length, and remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, texts):
        self.asked += texts
        return [torch.full((3,), float(len(text))) for text in texts]


def lengths(rows_and_row):
    """Return the length of the text that each sample's embedding stands for."""
    rows, row_B = rows_and_row
    return rows[row_B][:, 0].tolist()


def test_distinct_texts_have_a_row_each_and_are_embedded_once():
    encoder = Encoder()
    cache = EmbeddingCache(encoder)
    rows, row_B = cache.rows(["a", "bbb", "a", "cc", "a"], CPU)
    assert rows.shape == (3, 3)
    assert row_B.tolist() == [0, 1, 0, 2, 0]
    assert lengths(cache.rows(["cc", "dddd", "a"], CPU)) == [2, 4, 1]
    assert encoder.asked == ["a", "bbb", "cc", "dddd"]


def test_the_longest_unused_goes_first_and_comes_back_right():
    encoder = Encoder()
    cache = EmbeddingCache(encoder, limit=2 * SIZE)
    for texts in (["a"], ["bb"], ["a"], ["ccc"]):  # bb was used longest ago
        cache.rows(texts, CPU)
    assert encoder.asked == ["a", "bb", "ccc"]
    assert lengths(cache.rows(["a", "ccc"], CPU)) == [1, 3]
    assert encoder.asked == ["a", "bb", "ccc"]
    assert lengths(cache.rows(["bb", "a"], CPU)) == [2, 1]
    assert encoder.asked == ["a", "bb", "ccc", "bb"]


def test_it_holds_no_more_bytes_than_its_limit():
    cache = EmbeddingCache(Encoder(), limit=5 * SIZE)
    for number in range(1, 40):
        cache.rows(["x" * number], CPU)
        assert sum(value.untyped_storage().nbytes() for value in cache._kept.values()) <= 5 * SIZE
    assert len(cache._kept) == 5


def test_more_texts_at_once_than_it_holds_are_all_returned():
    cache = EmbeddingCache(Encoder(), limit=2 * SIZE)
    assert lengths(cache.rows(["a", "bb", "ccc", "dddd", "a"], CPU)) == [1, 2, 3, 4, 1]
    assert len(cache._kept) == 2


def test_what_is_kept_is_off_the_device():
    # "meta" stands for an accelerator: what lies there is not on the CPU.
    cache = EmbeddingCache(Encoder())
    rows, row_B = cache.rows(["a", "bb"], torch.device("meta"))
    assert (rows.device.type, row_B.device.type) == ("meta", "meta")
    assert {value.device.type for value in cache._kept.values()} == {"cpu"}
    assert lengths(cache.rows(["bb"], CPU)) == [2]


def test_rows_that_are_handed_out_are_copies():
    cache = EmbeddingCache(Encoder())
    cache.rows(["a"], CPU)[0].zero_()
    assert lengths(cache.rows(["a"], CPU)) == [1]
