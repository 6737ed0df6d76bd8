"""The training loop of both models: until a number of samples or a time, with a bar, and resumable."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from tqdm import tqdm

SYNCHRONISE = 20
"""Steps between looks at the clock: a GPU runs behind the host, and waiting for it at each step would cost speed."""
SAVE_EVERY = 60.0
"""Seconds between resumable checkpoints."""


@dataclass(frozen=True)
class Limits:
    """When a training ends: whichever comes first."""

    samples: int
    minutes: float | None = None
    """Of training; what ran before an interruption counts."""
    stop_at: float | None = None
    """On the clock, in Unix seconds: for a machine that is lent until then."""

    def __post_init__(self) -> None:
        if self.samples < 1 or (self.minutes is not None and self.minutes <= 0):
            raise ValueError(f"{self}: samples and minutes must be positive (minutes may be null)")

    def seconds(self, elapsed: float) -> float:
        """What the whole training may take, when `elapsed` seconds of it are over."""
        left = [float("inf") if self.minutes is None else 60 * self.minutes]
        left += [] if self.stop_at is None else [max(elapsed + self.stop_at - time.time(), 1e-3)]
        return min(left)


class Trainable(Protocol):
    samples: int
    """Seen so far."""
    batch_size: int
    elapsed: float
    """Seconds trained so far, over all runs."""
    device: torch.device

    def step(self, progress: float) -> None: ...

    def loss(self) -> float:
        """Mean loss since it was last asked for."""
        ...

    def state(self) -> dict[str, Any]: ...

    def load(self, state: dict[str, Any]) -> None: ...


def random_state(device: torch.device) -> dict[str, torch.Tensor]:
    state = {"cpu": torch.get_rng_state()}
    return state | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def restore_random_state(state: dict[str, torch.Tensor], device: torch.device) -> None:
    torch.set_rng_state(state["cpu"].cpu())
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)


def save_state(module: Trainable, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(".tmp")
    kept = {"samples": module.samples, "elapsed": module.elapsed, "random": random_state(module.device)}
    torch.save({**kept, "module": module.state()}, temporary)
    temporary.replace(file)


def load_state(module: Trainable, file: Path) -> None:
    """Goes on from `file`, if it is there.

    Raises:
        ValueError: it belongs to another model, or is damaged.
    """
    if not file.exists():
        return
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
        module.load(state["module"])
    except Exception as error:
        raise ValueError(
            f"cannot go on from {file} ({error}): delete it to begin anew, or name another work="
        ) from error
    module.samples, module.elapsed = state["samples"], state["elapsed"]
    restore_random_state(state["random"], module.device)


def fit(
    module: Trainable,
    limits: Limits,
    file: Path,
    name: str,
    marks: list[int] | None = None,
    reached: Callable[[int], None] = lambda mark: None,
) -> None:
    """Trains until `limits` end it, from `file` if it is there; `reached` is called when `marks` samples were seen."""
    load_state(module, file)
    due = sorted(mark for mark in marks or [] if mark > module.samples)
    before, started = module.elapsed, time.monotonic()
    total = limits.seconds(before)
    by_clock, saved = before / total, started
    with tqdm(
        total=limits.samples, initial=module.samples, unit="hand", desc=name, mininterval=2, smoothing=0.1
    ) as bar:
        for step in range(2**62):
            if step % SYNCHRONISE == 0:
                if module.device.type == "cuda":
                    torch.cuda.synchronize(module.device)
                module.elapsed = before + time.monotonic() - started
                by_clock = module.elapsed / total
                if step and step % (25 * SYNCHRONISE) == 0:
                    bar.set_postfix(loss=f"{module.loss():.4f}", refresh=False)
            progress = max(by_clock, module.samples / limits.samples)
            if progress >= 1:
                break
            module.step(progress)
            module.samples += module.batch_size
            bar.update(module.batch_size)
            if due and module.samples >= due[0]:
                reached(due.pop(0))
            if time.monotonic() - saved > SAVE_EVERY:
                save_state(module, file)
                saved = time.monotonic()
    module.elapsed = before + time.monotonic() - started
    save_state(module, file)
