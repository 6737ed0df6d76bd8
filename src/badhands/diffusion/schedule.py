"""Timesteps of one schedule carried over to another length."""

from collections.abc import Iterable
from typing import Literal


def choose_timesteps(wanted: Iterable[int] | Literal["all"], of_steps: int, steps: int) -> tuple[int, ...]:
    """Timesteps chosen on a schedule of `of_steps`, for a schedule of `steps`, counting down without repeats.

    The rule: t becomes t * steps / of_steps rounded half up, at least 1. So the first and the last step stay the first
    and the last, and 20, 19, 18, 17, 15, 12, 8, 3 of 20 become 4, 3, 2, 1 of 4. `all` is every timestep.

    Raises:
        ValueError: a timestep outside 1..of_steps.
    """
    if wanted == "all":
        return tuple(range(steps, 0, -1))
    timesteps = [int(t) for t in wanted]
    outside = [t for t in timesteps if not 1 <= t <= of_steps]
    if outside:
        raise ValueError(f"timesteps {outside} are not in 1..{of_steps}")
    return tuple(sorted({max(1, (2 * t * steps + of_steps) // (2 * of_steps)) for t in timesteps}, reverse=True))
