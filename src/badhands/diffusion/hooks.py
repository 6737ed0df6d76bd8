"""Functions called after a block or a scheduler step; each returns what takes it off again."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch


def after_call(block: torch.nn.Module, after: Callable[[Any], Any]) -> Callable[[], Any]:
    """`after(output)` at every call of the block; what it returns, unless None, takes the output's place."""
    compiled = getattr(block, "_compiled_call_impl", None)
    if compiled is None:
        return block.register_forward_hook(lambda _m, _a, output: after(output)).remove

    # A forward hook would be traced into the block's graph; outside of it any Python may run.
    def call(*args: Any, **kwargs: Any) -> Any:
        output = compiled(*args, **kwargs)
        changed = after(output)
        return output if changed is None else changed

    block._compiled_call_impl = call  # type: ignore[assignment]
    return partial(setattr, block, "_compiled_call_impl", compiled)


def after_step(scheduler: Any, after: Callable[[torch.Tensor, torch.Tensor, Any], Any]) -> Callable[[], Any]:
    """`after(model_output, sample, result)` at every step; what it returns is the step's result."""
    own = scheduler.__dict__.get("step")
    original = scheduler.step

    def step(model_output: torch.Tensor, timestep: Any, sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        result = original(model_output, timestep, sample, *args, **kwargs)
        return after(model_output, sample, result)

    scheduler.step = step
    return partial(scheduler.__dict__.pop, "step") if own is None else partial(setattr, scheduler, "step", own)
