"""Taps on a running pipeline: which step is it, what do the blocks say, what is the picture so far.

The step is read from the scheduler, never counted from hook calls: true CFG calls the transformer twice a step,
img2img starts in the middle of the schedule, and a second generation starts anew.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from badhands.cells import PSEUDO_BLOCKS
from badhands.diffusion.blocks import check_blocks, find_block, image_tokens, with_image_tokens
from badhands.diffusion.families import BlockList, Family, family_of
from badhands.diffusion.hooks import after_call, after_step
from badhands.diffusion.moments import AllDropped, Moment, StepEnd
from badhands.diffusion.refusals import refuse_untappable

OnBlock = Callable[[Moment, str, torch.Tensor], torch.Tensor | None]
OnStep = Callable[[StepEnd], None]

_PER_IMAGE = (
    "timestep",
    "guidance",
    "encoder_hidden_states",
    "pooled_projections",
    "encoder_hidden_states_mask",
    "attention_mask",
)
"""Keyword arguments of the transformer that the pipeline keeps at the first batch size when members are dropped."""


class Taps:
    """Context manager that calls back at chosen blocks and at the end of every step, then leaves no trace.

    With callbacks that only read, the picture is bit-identical to an untapped one. Blocks compiled by
    `compile_repeated_blocks` are tapped outside their compiled graph, so nothing is recompiled.

    Args:
        pipe: a diffusers pipeline of a family in `diffusion/families`.
        blocks: names such as `single.8`.
        on_block: called as `on_block(moment, block, tokens)` with the image tokens [B, n, d] that a block put out, a
            view to be copied from, not kept. A tensor it returns takes the tokens' place (steering).
        on_step: called with each `StepEnd`; it may raise to abort, or call `drop`.
        timesteps: restricts `on_block` to these timesteps; None is all.

    Raises:
        ValueError: at entry, a pipeline or block that cannot be tapped truthfully.
        RuntimeError: during generation, a chosen block did not fire exactly once in a call of the transformer.
    """

    def __init__(
        self,
        pipe: Any,
        blocks: Sequence[str] = (),
        *,
        on_block: OnBlock | None = None,
        on_step: OnStep | None = None,
        timesteps: Iterable[int] | None = None,
    ) -> None:
        transformer = getattr(pipe, "transformer", None)
        if transformer is None or getattr(pipe, "scheduler", None) is None:
            raise ValueError(
                f"{type(pipe).__name__} has no transformer or no scheduler: taps need a diffusion transformer"
            )
        refuse_untappable(transformer, pipe.scheduler)
        self.pipe = pipe
        self.config = {**transformer.config, "_class_name": type(transformer).__name__}
        self.family: Family = family_of(self.config)
        self.blocks = check_blocks(self.config, blocks)
        pseudo = [name for name in self.blocks if name in PSEUDO_BLOCKS]
        if pseudo:
            raise ValueError(f"{', '.join(pseudo)} is not a block: read it from the step's x_t or x0()")
        self.timesteps = None if timesteps is None else frozenset(int(t) for t in timesteps)
        self._on_block = on_block
        self._on_step = on_step
        self._undo: list[Callable[[], Any]] = []
        self.grid: tuple[int, int] = (0, 0)
        """Rows and columns of image tokens of the running generation."""
        self.doubled = False
        """Whether a call of the transformer holds both branches of guidance."""
        self._generation = -1
        self._schedule: Any = None
        self._moment: Moment | None = None

    def __enter__(self) -> "Taps":
        transformer, scheduler = self.pipe.transformer, self.pipe.scheduler
        self._transformer, self._scheduler = transformer, scheduler
        try:
            before = transformer.register_forward_pre_hook(self._before_transformer, with_kwargs=True)
            self._undo.append(before.remove)
            self._undo.append(transformer.register_forward_hook(self._after_transformer).remove)
            for name in self.blocks:
                block, rows = find_block(transformer, self.config, name)
                self._undo.append(after_call(block, partial(self._after_block, name, rows)))
            self._undo.append(after_step(scheduler, self._after_step))
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        self._remove()
        if kind is not None and getattr(self.pipe, "_all_hooks", None):
            self.pipe.maybe_free_model_hooks()  # an aborted call leaves offloaded models on the device

    def _remove(self) -> None:
        while self._undo:
            self._undo.pop()()
        self._moment = None

    # The transformer -------------------------------------------------------------------------------------------------

    def _before_transformer(self, _module: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict] | None:
        scheduler = self.pipe.scheduler
        if scheduler is not self._scheduler:
            raise RuntimeError("the pipeline's scheduler was exchanged under the taps: exchange it before opening them")
        if scheduler.step_index is None and scheduler.timesteps is not self._schedule:
            self._begin(scheduler, args, kwargs)
        elif self._schedule is None:
            raise RuntimeError("the taps were opened in the middle of a generation: open them before the pipeline call")
        step = self._first_step if scheduler.step_index is None else scheduler.step_index
        self._moment = Moment(
            generation=self._generation,
            step=step,
            timestep=self._num_steps - step,
            num_steps=self._num_steps,
            sigma=self._sigmas[step],
            sigma_next=self._sigmas[step + 1],
            branch=self._calls,
            members=self._members,
        )
        if self._calls >= self._most_calls:
            raise ValueError(
                f"{type(self.pipe).__name__} called the transformer {self._calls + 1} times in a step, for more than "
                "the two branches of guidance: switch skip-layer guidance and its like off"
            )
        self._calls += 1
        self._fired: dict[str, int] = dict.fromkeys(self.blocks, 0)
        if len(self._members) == self._batch:
            return None
        alive = torch.tensor(self._members, device=self._device)
        return args, {
            name: value[alive]
            if name in _PER_IMAGE and torch.is_tensor(value) and value.ndim and value.shape[0] == self._batch
            else value
            for name, value in kwargs.items()
        }

    def _begin(self, scheduler: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        refuse_untappable(self._transformer, scheduler)
        self._generation += 1
        self._schedule = scheduler.timesteps
        self._num_steps = len(scheduler.timesteps)
        # The only waits for the device, before the first block of a generation is queued.
        self._sigmas: list[float] = scheduler.sigmas.tolist()
        call = self.family.look(self.pipe, self._transformer, args, kwargs)
        begin = scheduler.begin_index
        self._first_step = self._nearest(scheduler, kwargs) if begin is None else int(begin)
        self.doubled = self.family.batches_guidance(self.pipe)
        self._most_calls = 1 if self.doubled else 2
        self._batch = call.batch // (2 if self.doubled else 1)
        self._members = tuple(range(self._batch))
        self._device = call.device
        self.grid = call.grid
        self._count = call.grid[0] * call.grid[1]
        self._calls = 0

    @staticmethod
    def _nearest(scheduler: Any, kwargs: dict[str, Any]) -> int:
        """First step of a pipeline that sets no begin index: the schedule entry nearest to the time it passed."""
        now = kwargs.get("timestep")
        if now is None:
            return 0
        t = float(now.flatten()[0])
        t = t * scheduler.config.num_train_timesteps if t <= 1 else t
        return int((scheduler.timesteps.float().cpu() - t).abs().argmin())

    def _after_block(self, name: str, rows: BlockList, output: Any) -> Any:
        moment = self._moment
        if moment is None:
            return None
        self._fired[name] += 1
        if self._on_block is None or (self.timesteps is not None and moment.timestep not in self.timesteps):
            return None
        tokens = image_tokens(output, rows, self._count)
        if not self.doubled:
            changed = self._on_block(moment, name, tokens)
        else:
            # Halves in the order of the batch; the conditional one is branch 0 wherever it stands.
            halves = tokens.chunk(2)
            moments = [moment, replace(moment, branch=1)]
            if self.family.guidance_batch == "uncond_first":
                moments.reverse()
            new = [self._on_block(m, name, half) for m, half in zip(moments, halves, strict=True)]
            changed = None
            if any(part is not None for part in new):
                changed = torch.cat([half if part is None else part for part, half in zip(new, halves, strict=True)])
        return None if changed is None else with_image_tokens(output, rows, changed)

    def _after_transformer(self, _module: Any, _args: Any, _output: Any) -> None:
        wrong = [name for name, count in self._fired.items() if count != 1]
        if wrong:
            raise RuntimeError(
                f"blocks {', '.join(wrong)} did not fire exactly once in a call: is the model compiled as a whole, or "
                "are blocks skipped? Use transformer.compile_repeated_blocks() and no cache"
            )

    # The scheduler ---------------------------------------------------------------------------------------------------

    def _after_step(self, velocity: torch.Tensor, sample: torch.Tensor, result: Any) -> Any:
        moment = self._moment
        if moment is None:
            return result
        if self._scheduler.step_index != moment.step + 1:
            raise RuntimeError(
                f"the scheduler is at step {self._scheduler.step_index}, expected {moment.step + 1}: this pipeline's "
                "schedule cannot be followed"
            )
        self._moment, self._calls = None, 0
        if self._on_step is None:
            return result
        x_next = result[0]
        pack = self.family.pack
        event = StepEnd(moment, pack(sample), pack(velocity), pack(x_next))
        self._on_step(event)
        if not event.dropped:
            return result
        places = [i for i, member in enumerate(moment.members) if member not in event.dropped]
        if not places:
            raise AllDropped(f"all {len(moment.members)} images were dropped at timestep {moment.timestep}")
        if self.doubled or sample.ndim != 3:
            raise ValueError(
                f"{type(self.pipe).__name__} keeps its batch together: members cannot be dropped one by one. "
                "Use model.batch_size=1"
            )
        self._members = tuple(moment.members[i] for i in places)
        kept = x_next[torch.tensor(places, device=x_next.device)]
        return (kept, *result[1:]) if isinstance(result, tuple) else type(result)(prev_sample=kept)
