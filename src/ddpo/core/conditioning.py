"""What samples are conditioned on, the context `c`: tensors held once a distinct context, with a row index a sample."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Conditioning:
    """The contexts of `B` samples. `conditioning["name"]` is `(B, ...)`; there may be no tensors at all."""

    row_B: Tensor
    """`(B,)` int64: the row of each sample in `rows`."""
    rows: Mapping[str, Tensor] = field(default_factory=dict)
    """Tensors `(R, ...)`: a row for each distinct context."""
    shared: Mapping[str, Tensor] = field(default_factory=dict)
    """Tensors `(...)` that are the same for every sample, such as the embedding of the negative prompt."""

    @classmethod
    def none(cls, number: int, device: torch.device | str = "cpu") -> Conditioning:
        """Return the conditioning of `number` samples of an unconditional model."""
        return cls(torch.zeros(number, dtype=torch.int64, device=device))

    @classmethod
    def of(cls, **tensors: Tensor) -> Conditioning:
        """Return the conditioning of samples with a row each, `(B, ...)`."""
        first = next(iter(tensors.values()))
        return cls(torch.arange(len(first), device=first.device), tensors)

    def __len__(self) -> int:
        return self.row_B.shape[0]

    def __iter__(self) -> Iterator[str]:
        yield from (*self.rows, *self.shared)

    def __contains__(self, name: object) -> bool:
        return name in self.rows or name in self.shared

    def __getitem__(self, name: str) -> Tensor:
        """Return a tensor `(B, ...)`, a row a sample."""
        if name in self.shared:
            return self.shared[name].expand(len(self), *self.shared[name].shape)
        return self.rows[name][self.row_B]

    def take(self, index: Tensor | slice) -> Conditioning:
        """Return the conditioning of the samples at `index`; the rows are shared, not copied."""
        return replace(self, row_B=self.row_B[index])

    @staticmethod
    def concatenate(parts: Sequence[Conditioning]) -> Conditioning:
        """Join along the sample axis; parts of one whole go on sharing its rows."""
        first = parts[0]
        if all(part.rows is first.rows for part in parts):
            return replace(first, row_B=torch.cat([part.row_B for part in parts]))
        sizes = [max((len(rows) for rows in part.rows.values()), default=1) for part in parts]
        starts = [sum(sizes[:place]) for place in range(len(parts))]
        return Conditioning(
            torch.cat([part.row_B + start for part, start in zip(parts, starts, strict=True)]),
            {name: torch.cat([part.rows[name] for part in parts]) for name in first.rows},
            first.shared,
        )
