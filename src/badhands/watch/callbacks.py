"""The watcher as an official diffusers callback: it ends a pipeline call through `_interrupt` instead of an exception.

with BadHandCallback(probes, Abort.of(probes, cells, miss=0.05)).on(pipe) as callback:
    image = pipe("a hand", callback_on_step_end=callback).images[0]
if callback.interrupted: ...  # the image is unfinished: take the next seed
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from diffusers.callbacks import PipelineCallback
from torch import Tensor

from badhands.cells import Cell
from badhands.probes.artifact import Probes
from badhands.watch import watch

if TYPE_CHECKING:
    from badhands.watch import Frame, Seen
    from badhands.watch.policies import Policy


class BadHandCallback(PipelineCallback):
    """A `callback_on_step_end` that reads the probes at every step they know and stops a call whose images went wrong.

    diffusers asks its callbacks after a step and shows them the noisy latent alone, so the activations are read by
    hooks, which `on` opens before the call and removes after it. The pixels are those of the call without it, unless
    the policy changes them. A callback cannot shrink a batch: a call is interrupted once the policy has stopped every
    member, and then returns what is drawn so far, unfinished; `with watch(...)` drops members one by one.

    Args:
        probes: of the pipeline's model.
        policy: `Abort`, `Steer`, or None to look only.
        options: of `badhands.watch`: blocks, previews, preview_scale, p_hand.
    """

    tensor_inputs: list[str] = []  # type: ignore[assignment]  # noqa: RUF012  # as diffusers' own callbacks declare it

    def __init__(self, probes: Probes, policy: "Policy | None" = None, **options: Any) -> None:
        super().__init__()
        self.probes, self.policy, self.options = probes, policy, options
        self.seen: Seen | None = None
        """What the watch saw; grows while images are made."""
        self.interrupted = False
        """Whether the last pipeline call was interrupted, so that its images are unfinished."""
        self._frame: Frame | None = None
        self._stopped: set[int] = set()

    @contextmanager
    def on(self, pipe: Any) -> "Iterator[BadHandCallback]":
        """Open the hooks on `pipe` for the calls inside the block.

        Raises:
            ValueError: probes of another model, a block without a probe, a policy without threshold.
        """
        acting = _ChangesOnly(self.policy) if self.policy is not None else None
        with watch(pipe, self.probes, acting, on_frame=self._remember, **self.options) as seen:
            self.seen = seen
            yield self

    def _remember(self, _seen: "Seen", frame: "Frame") -> None:
        self._frame = frame

    def callback_fn(
        self, pipeline: Any, step_index: int, timesteps: Any, callback_kwargs: dict[str, Any]
    ) -> dict[str, Any]:
        """diffusers' side: called after every step, returns `callback_kwargs` untouched.

        Raises:
            ValueError: called outside `with callback.on(pipe):`, or by another pipeline.
        """
        if self.seen is None or self.seen.pipe is not pipeline:
            raise ValueError("BadHandCallback has no hooks on this pipeline: call it inside `with callback.on(pipe):`")
        frame, self._frame = self._frame, None
        if step_index == 0:
            self.interrupted, self._stopped = False, set()
        if frame is not None and self.policy is not None:
            for member in self.policy.stop(frame) - self._stopped:
                self._stopped.add(member)
                self.seen.stopped[frame.generation, member] = frame.timestep
            if self._stopped >= set(frame.members):
                pipeline._interrupt = self.interrupted = True
        return callback_kwargs


class _ChangesOnly:
    """A policy that steers as the given one does and leaves stopping to the callback."""

    def __init__(self, policy: "Policy") -> None:
        self._policy = policy

    @property
    def cells(self) -> tuple[Cell, ...]:
        return self._policy.cells

    def change(self, cell: Cell, tokens: Tensor, hand: Tensor) -> torch.Tensor | None:
        return self._policy.change(cell, tokens, hand)

    def stop(self, frame: "Frame") -> set[int]:
        return set()
