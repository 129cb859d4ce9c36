"""What happens between microbatches: stopping together when one is told to, and smaller ones when memory runs out."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ddpo.runtime.errors import DDPOError, DeviceMemoryError
from ddpo.runtime.processes import Runtime, out_of_memory
from ddpo.runtime.signals import Interrupted, StopRequest

T = TypeVar("T")


class Control:
    """Keeps the processes of a run together and its microbatches within memory."""

    def __init__(
        self, runtime: Runtime, batch_size: int, stop: StopRequest | None, say: Callable[[str], None] | None
    ) -> None:
        """`stop` is looked at between microbatches; `say` is told in a sentence of whatever the run got over."""
        self.runtime = runtime
        self.batch_size = batch_size
        """Samples in one pass of the network: halved when they do not fit the memory."""
        self._stop = stop or StopRequest()
        self._common: DDPOError | None = None
        """The problem that every process has been told of."""
        self.say: Callable[[str], None] = say or (lambda text: None)

    def meet(self, problem: DDPOError | None = None) -> None:
        """Let every process say whether it failed or was told to stop; if one does, all end.

        A problem that an earlier meeting raised is raised again: the others have heard of it and ask no more.

        Raises:
            DDPOError: the first process's `problem`.
            Interrupted: a process was told to stop.
        """
        if problem is not None and problem is self._common:
            raise problem
        said = self.runtime.gather([(self._stop.signal_number, problem)])
        for _, error in said:
            if error is not None:
                self._common = error
                raise error
        for signal_number, _ in said:
            if signal_number is not None:
                raise Interrupted(signal_number)

    def look(self) -> None:
        """Do as `meet` where the others need not be asked: a process that is alone."""
        if self.runtime.processes == 1:
            self.meet()

    def fitting(self, work: Callable[[], T]) -> T:
        """Return what `work` gives, with smaller batches as long as the memory does not hold them.

        Raises:
            DeviceMemoryError: it does not hold a single sample.
        """
        while True:
            try:
                return work()
            except Exception as error:
                if not out_of_memory(error):
                    raise
                if self.batch_size == 1:
                    raise DeviceMemoryError(
                        "The memory does not hold the update of a single sample; use lora.rank, precision=bf16 or "
                        "gradient_checkpointing=true, or a device with more."
                    ) from error
            self.batch_size = (self.batch_size + 1) // 2  # behind the handler, whose traceback holds on to memory
            self.runtime.free_memory()
            self.say(f"Out of memory: going on with {self.batch_size} samples in a pass; the gradient is the same.")
