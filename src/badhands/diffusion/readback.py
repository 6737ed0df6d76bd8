"""Tensors on their way from the device to the host, without anybody waiting for them until they are needed."""

import torch
from torch import Tensor


class Readback:
    """A copy that was asked for now and can be had later.

    On CUDA it goes to pinned memory, behind what the model has queued so far: asking costs next to nothing, and having
    it waits for no more than what was queued before it was asked for. Elsewhere it is made at once.
    """

    def __init__(self, *tensors: Tensor) -> None:
        self._ready: torch.cuda.Event | None = None
        if not any(tensor.is_cuda for tensor in tensors):
            self._host = tuple(tensor.cpu() for tensor in tensors)
            return
        self._host = tuple(_pinned(tensor) for tensor in tensors)
        self._ready = torch.cuda.Event()
        self._ready.record()

    def get(self) -> tuple[Tensor, ...]:
        """The tensors, on the host and complete."""
        if self._ready is not None:
            self._ready.synchronize()
        return self._host


def _pinned(tensor: Tensor) -> Tensor:
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor.detach(), non_blocking=True)
