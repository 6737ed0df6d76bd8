"""A preallocated place for captured rows, filled step by step without waiting for the device."""

import torch


class RowBuffer:
    """[places, slots, rows, d]: one place a captured timestep, one slot a block.

    On the CPU rows are written straight into it. On CUDA one step is staged on the device and copied to pinned host
    memory on a stream of its own; two stages take turns, so the device holds 2 x slots x rows x d values for any number
    of steps and the model's stream waits only for a copy begun two captured steps earlier.
    """

    def __init__(self, places: int, slots: int, rows: int, d: int, dtype: torch.dtype, device: torch.device) -> None:
        self._device = device
        self._cuda = device.type == "cuda"
        self._host = torch.empty((places, slots, rows, d), dtype=dtype, pin_memory=self._cuda)
        self.host_bytes = self._host.nbytes
        self.device_bytes = 0
        self._turn = 0
        self._writing = False
        if device.type != "cpu":
            self._stage = torch.empty((2, slots, rows, d), dtype=dtype, device=device)
            self.device_bytes = self._stage.nbytes
        if self._cuda:
            self._copies = torch.cuda.Stream(device)
            self._copied = [torch.cuda.Event(), torch.cuda.Event()]

    def rows(self, place: int, slot: int) -> torch.Tensor:
        """Where to write the rows [rows, d] of one block at one timestep."""
        if self._device.type == "cpu":
            return self._host[place, slot]
        if self._cuda and not self._writing:
            torch.cuda.current_stream(self._device).wait_event(self._copied[self._turn])
            self._writing = True
        return self._stage[self._turn, slot]

    def flush(self, place: int) -> None:
        """The rows of this timestep are all written: let them go to the host."""
        if self._device.type == "cpu":
            return
        stage = self._stage[self._turn]
        if not self._cuda:
            self._host[place].copy_(stage)
            return
        self._copies.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._copies):
            self._host[place].copy_(stage, non_blocking=True)
            self._copied[self._turn].record(self._copies)
        self._turn, self._writing = 1 - self._turn, False

    def finish(self) -> torch.Tensor:
        """Wait for the last copy; the host tensor [places, slots, rows, d]."""
        if self._cuda:
            self._copies.synchronize()
        return self._host
