"""What every model family shares: a network with trainable parameters, and the model it was before training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from ddpo.core.conditioning import Conditioning
from ddpo.core.forward_process import ForwardProcess
from ddpo.core.kernel import Kernel
from ddpo.core.prompt import Prompt
from ddpo.media.array import Array
from ddpo.media.medium import Medium
from ddpo.runtime.errors import ModelError

FILE = "model.safetensors"


class NetworkPolicy:
    """A `Policy` over one network: unconditional, of plain arrays, saved as one file, unless a family says otherwise.

    A family gives `predict`, and `encode` and `decode` where it has contexts and a decoder.
    """

    medium: Medium = Array()
    trains_guidance: bool = True

    def __init__(
        self,
        network: nn.Module,
        kernel: Kernel,
        forward_process: ForwardProcess,
        sample_shape: tuple[int, ...],
        device: torch.device | str = "cpu",
        *,
        keep_base: bool = True,
    ) -> None:
        """All parameters of `network` that require gradients are trained; `keep_base` copies them to the CPU."""
        self.device = torch.device(device)
        self.network = network.to(self.device)
        self.kernel, self.forward_process, self.sample_shape = kernel, forward_process, sample_shape
        self._trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self._base = copied(self._trained) if keep_base else None

    def encode(self, prompts: Sequence[Prompt]) -> Conditioning:
        """Return a conditioning without tensors."""
        return Conditioning.none(len(prompts), self.device)

    def predict(self, x: Tensor, time_B: Tensor, conditioning: Conditioning, *, guided: bool) -> Tensor:
        """Return the network's prediction at `x` `(B, ...)`, float32."""
        raise NotImplementedError

    def decode(self, x_0: Tensor) -> Tensor:
        """Return the samples `(B, ...)` as they are, on the CPU."""
        return x_0.detach().cpu()

    def parameters(self) -> list[nn.Parameter]:
        """Return the trainable parameters."""
        return self._trained

    @contextmanager
    def base_model(self) -> Iterator[None]:
        """Give the parameters the values they had before training; afterwards every bit is as it was.

        The present values wait on the CPU: a large network needs no more memory on its device.

        Raises:
            ModelError: no copy of them was kept.
        """
        if self._base is None:
            raise ModelError("The base model was not kept: set evaluation.kl_to_base=true, or train by lora.rank.")
        present = copied(self._trained)
        try:
            assign(self._trained, self._base)
            yield
        finally:
            assign(self._trained, present)

    def save(self, folder: Path) -> None:
        """Write the network's weights."""
        from safetensors.torch import save_model

        folder.mkdir(parents=True, exist_ok=True)
        save_model(self.network, str(folder / FILE))

    def load(self, folder: Path) -> None:
        """Give the network the weights of a folder that `save` wrote.

        Raises:
            ModelError: they are not there, or of another network.
        """
        from safetensors.torch import load_model

        try:
            load_model(self.network, folder / FILE)
        except (OSError, RuntimeError) as error:
            raise ModelError(
                f"model: {folder / FILE} cannot be loaded: {' '.join(str(error).split())[:300]}"
            ) from error


def copied(parameters: Iterable[nn.Parameter]) -> list[Tensor]:
    """Return the present values of parameters on the CPU."""
    return [parameter.detach().to("cpu", copy=True) for parameter in parameters]


@torch.no_grad()
def assign(parameters: Iterable[nn.Parameter], values: Iterable[Tensor]) -> None:
    """Give parameters these values."""
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)
