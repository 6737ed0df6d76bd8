"""The study's cells taken with nnsight: one trace a transformer call at the chosen steps."""

from collections.abc import Callable
from typing import Any

import torch


def traced(s: Any) -> Callable[[], Any]:
    """A run that saves the tokens of the post cells through nnsight. Raises ImportError where it is not installed."""
    from nnsight import NNsight

    original = s.pipe.transformer
    model = NNsight(original)
    index = torch.from_numpy(s.tokens(300)[0]).long().to(s.pipe._execution_device)
    chosen = {s.spec.steps - t for t in s.post_timesteps}

    class Standin(torch.nn.Module):
        def __getattr__(self, name: str) -> Any:
            return getattr(original, name)

        def forward(self, **kwargs: Any) -> Any:
            if next(calls) not in chosen:
                return original(**kwargs)
            with model.trace(**kwargs):
                for block in s.post_blocks:
                    kind, i = block.split(".")
                    part = model.transformer_blocks if kind == "double" else model.single_transformer_blocks
                    rows.append(part[int(i)].output[1][0][index].save())
                output = model.output.save()
            return output

    Standin.__name__ = type(original).__name__  # by which a pipeline's family is known
    rows: list[Any] = []
    calls = iter(range(s.spec.steps))

    def run() -> None:
        nonlocal calls
        calls = iter(range(s.spec.steps))
        rows.clear()
        s.pipe.transformer = Standin()
        try:
            s.latents([0])
        finally:
            s.pipe.transformer = original

    return run
