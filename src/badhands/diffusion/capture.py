"""Capture: rows of chosen blocks at chosen timesteps and tokens, copied out while the picture is made."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from badhands.cells import PSEUDO_BLOCKS, Cell, grid
from badhands.diffusion.blocks import check_blocks
from badhands.diffusion.moments import Moment, StepEnd
from badhands.diffusion.row_buffer import RowBuffer
from badhands.diffusion.taps import Taps

Tokens = npt.ArrayLike | Sequence[npt.ArrayLike] | None


class Taken(Mapping[Cell, torch.Tensor]):
    """What a capture took: cell -> rows [R, d] on the CPU, in the dtype the model ran in.

    Rows of batch member 0 come first, then member 1, ...; within a member they follow its token indices. Readable when
    the `with` block has ended.
    """

    def __init__(self, cells: Sequence[Cell]) -> None:
        self.cells = tuple(cells)
        self.tokens: tuple[np.ndarray, ...] = ()
        """Per batch member the captured token indices, int32, row-major on the token grid."""
        self.steps: dict[int, tuple[int, float]] = {}
        """Captured timestep -> (step index, sigma)."""
        self.num_steps = 0
        self.device_bytes = 0
        """Memory that the capture held on the device; it does not grow with the number of timesteps."""
        self.host_bytes = 0
        self._rows: dict[Cell, torch.Tensor] = {}

    def __getitem__(self, cell: Cell) -> torch.Tensor:
        if cell in self.cells and not self._rows:
            raise RuntimeError("the capture is still running: read it when its `with` block has ended")
        return self._rows[cell]

    def __iter__(self) -> Iterator[Cell]:
        return iter(self.cells)

    def __len__(self) -> int:
        return len(self.cells)

    def member(self, index: int) -> dict[Cell, torch.Tensor]:
        """The rows [n, d] of one batch member, every cell."""
        ends = np.cumsum([0, *(len(t) for t in self.tokens)])
        return {cell: self[cell][ends[index] : ends[index + 1]] for cell in self.cells}

    def nonfinite(self) -> tuple[Cell, ...]:
        """Cells that hold an infinity or not-a-number."""
        return tuple(cell for cell in self.cells if not bool(torch.isfinite(self[cell]).all()))


class capture:
    """`with capture(pipe, blocks, timesteps, tokens) as taken: pipe(...)`: one generation, any diffusers pipeline call.

    The picture is bit-identical with and without it. Memory: on the host `cells x rows x d` values (pinned where the
    model runs on CUDA); on a CUDA device twice `blocks x rows x d`, however many timesteps. Rows leave the device on a
    stream of their own and nothing waits for them until the `with` block ends.

    Args:
        pipe: a diffusers pipeline of a family in `diffusion/families`.
        blocks: names such as `single.8`, also `xt` (the packed latent of the step) and `x0` (predicted clean latent).
        timesteps: counting down, `num_steps` (pure noise) to 1.
        tokens: indices on the row-major token grid: one array for a batch of one, a list of arrays with one per batch
            member (lengths may differ; members without an array are not captured), or None for all tokens.
        branch: 0 is the conditional call; 1 the unconditional one of true classifier-free guidance.

    Raises:
        ValueError: at entry or in the first step: an unknown block, a timestep the schedule does not have, a token
            outside the grid, more arrays than batch members, a pipeline that cannot be captured truthfully.
        RuntimeError: a chosen block did not fire, a chosen timestep never came, or two generations in one capture.
    """

    def __init__(
        self,
        pipe: Any,
        blocks: Iterable[str],
        timesteps: Iterable[int],
        tokens: Tokens = None,
        *,
        branch: int = 0,
    ) -> None:
        names = list(blocks)
        self._timesteps = tuple(sorted({int(t) for t in timesteps}, reverse=True))
        if not names or not self._timesteps:
            raise ValueError("nothing to capture: name at least one block and one timestep")
        if branch not in (0, 1):
            raise ValueError(f"branch={branch}: use 0 (conditional) or 1 (unconditional)")
        self._branch = branch
        self._wanted = _token_arrays(tokens)
        real = [name for name in names if name not in PSEUDO_BLOCKS]
        self._taps = Taps(pipe, real, on_block=self._on_block, on_step=self._on_step, timesteps=self._timesteps)
        ordered = check_blocks(self._taps.config, names)
        self._slots = {name: i for i, name in enumerate(self._taps.blocks)}
        self._latent_slots = {name: i for i, name in enumerate(n for n in ordered if n in PSEUDO_BLOCKS)}
        self._places = {t: i for i, t in enumerate(self._timesteps)}
        self.taken = Taken(grid(ordered, self._timesteps))
        self._stream: RowBuffer | None = None
        self._latent: RowBuffer | None = None
        self._generation: int | None = None
        self._index: list[torch.Tensor] = []
        self._flat: torch.Tensor | None = None

    def __enter__(self) -> Taken:
        self._taps.__enter__()
        return self.taken

    def __exit__(self, kind: Any, value: Any, trace: Any) -> None:
        self._taps.__exit__(kind, value, trace)
        # The taps hold this capture's callbacks: in a cycle the rows would stay until the next garbage collection, and
        # the next image would pin host memory anew instead of taking up what torch keeps of the last one's.
        del self._taps
        if kind is None:
            self._finish()

    def _on_block(self, moment: Moment, block: str, tokens: torch.Tensor) -> None:
        if moment.branch != self._branch:
            return
        self._begin(moment, tokens)
        if self._stream is None:
            self._stream = self._buffer(len(self._slots), tokens)
        self._copy(tokens, self._stream.rows(self._places[moment.timestep], self._slots[block]))

    def _on_step(self, step: StepEnd) -> None:
        moment = step.moment
        self._begin(moment, step.x_t)
        if moment.timestep in self._places:
            place = self._places[moment.timestep]
            if self._latent_slots:
                if self._latent is None:
                    self._latent = self._buffer(len(self._latent_slots), step.x_t)
                for name, slot in self._latent_slots.items():
                    latent = step.x_t if name == "xt" else step.x0().to(step.x_t.dtype)
                    self._copy(latent, self._latent.rows(place, slot))
            for buffer in (self._stream, self._latent):
                if buffer is not None:
                    buffer.flush(place)
            self.taken.steps[moment.timestep] = (moment.step, moment.sigma)

    def _begin(self, moment: Moment, tokens: torch.Tensor) -> None:
        """At the first callback: the batch size and the number of tokens are known now."""
        if moment.generation == self._generation:
            return
        if self._generation is not None:
            raise RuntimeError("a second generation began inside one capture: open a new capture for each call")
        self._generation = moment.generation
        self.taken.num_steps = moment.num_steps
        beyond = [t for t in self._timesteps if not 1 <= t <= moment.num_steps]
        if beyond:
            raise ValueError(
                f"timesteps {beyond} do not exist in {moment.num_steps} steps: use 1 to {moment.num_steps}"
            )
        batch, count = tokens.shape[:2]
        wanted = [np.arange(count)] * batch if self._wanted is None else self._wanted
        if len(wanted) > batch:
            raise ValueError(f"token indices for {len(wanted)} images, but the batch has {batch}")
        wanted = [*wanted, *([np.zeros(0, np.int64)] * (batch - len(wanted)))]
        for member, index in enumerate(wanted):
            if len(index) and (index.min() < 0 or index.max() >= count):
                raise ValueError(f"token indices of batch member {member} leave the grid of {count} tokens")
        self.taken.tokens = tuple(index.astype(np.int32) for index in wanted)
        self._index = [_to_device(index, tokens.device) for index in wanted]
        self._flat = _to_device(np.concatenate([i + b * count for b, i in enumerate(wanted)]), tokens.device)

    def _buffer(self, slots: int, tokens: torch.Tensor) -> RowBuffer:
        assert self._flat is not None
        buffer = RowBuffer(len(self._timesteps), slots, len(self._flat), tokens.shape[-1], tokens.dtype, tokens.device)
        self.taken.device_bytes += buffer.device_bytes
        self.taken.host_bytes += buffer.host_bytes
        return buffer

    def _copy(self, tokens: torch.Tensor, rows: torch.Tensor) -> None:
        """Gather by index, never the whole stream: a single block's output is a strided view when B > 1."""
        tokens = tokens.detach()
        assert self._flat is not None
        if tokens.is_contiguous() or len(tokens) == 1:
            torch.index_select(tokens.flatten(0, 1), 0, self._flat, out=rows)
            return
        start = 0
        for member, index in enumerate(self._index):
            torch.index_select(tokens[member], 0, index, out=rows[start : start + len(index)])
            start += len(index)

    def _finish(self) -> None:
        missing = [t for t in self._timesteps if t not in self.taken.steps]
        if missing:
            raise RuntimeError(
                f"timesteps {missing} never came while capturing: did the pipeline run, and does its schedule (img2img "
                "begins late) hold them?"
            )
        rows: dict[Cell, torch.Tensor] = {}
        for slots, buffer in ((self._slots, self._stream), (self._latent_slots, self._latent)):
            if slots:
                if buffer is None:
                    raise RuntimeError(f"branch {self._branch} never ran: true classifier-free guidance is off")
                host = buffer.finish()
                rows |= {
                    Cell(b, t): host[place, slot] for b, slot in slots.items() for t, place in self._places.items()
                }
        self.taken._rows = {cell: rows[cell] for cell in self.taken.cells}


def _token_arrays(tokens: Tokens) -> list[np.ndarray] | None:
    if tokens is None:
        return None
    if isinstance(tokens, torch.Tensor | np.ndarray) or (isinstance(tokens, Sequence) and _is_flat(tokens)):
        arrays = [np.asarray(tokens)]
    else:
        arrays = [np.asarray(part) for part in tokens]  # type: ignore[union-attr]
    for member, array in enumerate(arrays):
        if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
            raise ValueError(f"token indices of batch member {member} must be a flat list of integers")
    return [array.astype(np.int64) for array in arrays]


def _is_flat(tokens: Sequence) -> bool:
    return len(tokens) > 0 and np.ndim(tokens[0]) == 0


def _to_device(index: np.ndarray, device: torch.device) -> torch.Tensor:
    host = torch.from_numpy(np.ascontiguousarray(index))
    if device.type != "cuda":
        return host.to(device)
    return host.pin_memory().to(device, non_blocking=True)
