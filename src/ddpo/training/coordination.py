"""What happens between microbatches: stopping together when one is told to, and smaller ones when memory runs out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from ddpo.runtime.errors import DDPOError, DeviceMemoryError
from ddpo.runtime.processes import Runtime, out_of_memory
from ddpo.runtime.signals import Interrupted, StopRequest

T = TypeVar("T")
log = logging.getLogger(__name__)


class Coordinator:
    """Keeps the processes of a run together and its microbatches within memory."""

    def __init__(self, runtime: Runtime, batch_size: int, stop: StopRequest | None = None) -> None:
        self.runtime = runtime
        self.batch_size = batch_size
        """Samples in one pass of the network: halved when they do not fit the memory."""
        self._stop = stop or StopRequest()
        self._common: DDPOError | None = None
        """The problem that every process has been told of."""

    def barrier(self, problem: DDPOError | None = None) -> None:
        """Wait for all processes; if one of them failed or was told to stop, all end here.

        A problem that an earlier barrier raised is raised again: the others have heard of it and wait no more.

        Raises:
            DDPOError: the first process's `problem`.
            Interrupted: a process was told to stop.
        """
        if problem is not None and problem is self._common:
            raise problem
        states = self.runtime.gather([(self._stop.signal_number, problem)])
        for _, error in states:
            if error is not None:
                self._common = error
                raise error
        for signal_number, _ in states:
            if signal_number is not None:
                raise Interrupted(signal_number)

    def poll(self) -> None:
        """Do as `barrier`, but only in a run of one process: several wait for each other at barriers alone."""
        if self.runtime.processes == 1:
            self.barrier()

    def retry_smaller(self, work: Callable[[], T]) -> T:
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
            log.warning("Out of memory: going on with %d samples in a pass; the gradient is the same.", self.batch_size)
