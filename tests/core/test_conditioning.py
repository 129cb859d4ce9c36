"""`Conditioning`: each distinct context is held once, however many samples have it."""

from __future__ import annotations

import torch

from ddpo.core.conditioning import Conditioning


def build() -> Conditioning:
    """Five samples of two contexts, and a tensor that all have."""
    rows = {"prompt": torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "label": torch.tensor([7, 8])}
    return Conditioning(torch.tensor([1, 0, 1, 1, 0]), rows, {"negative": torch.tensor([-1.0, -2.0])})


def test_a_sample_has_its_row_and_what_all_share():
    conditioning = build()
    assert len(conditioning) == 5
    assert list(conditioning) == ["prompt", "label", "negative"]
    assert "label" in conditioning
    assert "nothing" not in conditioning
    assert conditioning["label"].tolist() == [8, 7, 8, 8, 7]
    assert conditioning["prompt"][1].tolist() == [1.0, 2.0]
    assert conditioning["negative"].tolist() == [[-1.0, -2.0]] * 5


def test_shared_tensors_take_no_memory_a_sample():
    conditioning = build()
    assert conditioning["negative"].untyped_storage().data_ptr() == conditioning.shared["negative"].data_ptr()
    assert conditioning["negative"].stride()[0] == 0


def test_taking_and_joining_copies_no_row():
    whole = build()
    first, second = whole.take(slice(3)), whole.take(torch.tensor([4, 3]))
    assert first["label"].tolist() == [8, 7, 8]
    assert second["label"].tolist() == [7, 8]
    joined = Conditioning.concatenate([first, second])
    assert joined["label"].tolist() == [8, 7, 8, 7, 8]
    assert joined["negative"].shape == (5, 2)
    for part in (first, second, joined):
        assert part.rows["prompt"].data_ptr() == whole.rows["prompt"].data_ptr()


def test_parts_with_rows_of_their_own_are_joined():
    parts = [Conditioning.of(name=torch.tensor(values)) for values in ([5, 6], [7], [8, 9])]
    joined = Conditioning.concatenate([parts[0], parts[1], parts[2].take(torch.tensor([1, 1, 0]))])
    assert joined["name"].tolist() == [5, 6, 7, 9, 9, 8]


def test_one_row_a_sample():
    conditioning = Conditioning.of(name=torch.tensor([5, 6]), scale=torch.tensor([0.5, 1.5]))
    assert conditioning.take(torch.tensor([1, 1, 0]))["scale"].tolist() == [1.5, 1.5, 0.5]


def test_an_unconditional_model_has_no_tensors():
    parts = [Conditioning.none(3), Conditioning.none(2)]
    assert [len(part) for part in parts] == [3, 2]
    joined = Conditioning.concatenate([parts[0].take(slice(1, 3)), parts[1]])
    assert len(joined) == 4
    assert list(joined) == []
