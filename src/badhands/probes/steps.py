"""Which steps of a schedule the probes know: matched by noise level, never by number."""

from collections.abc import Mapping, Sequence

SIGMA_TOLERANCE = 0.02
"""How far the noise level of a step may lie from the one that its probe was trained at."""


def match_steps(trained: Mapping[int, tuple[int, float, int]], sigmas: Sequence[float]) -> dict[int, int]:
    """Timestep of this schedule -> timestep of the training schedule whose probes are read there.

    The rule: a trained timestep is read at the step of nearest sigma, provided the two differ by no more than
    `SIGMA_TOLERANCE`; where two claim one step, the nearer has it. Equal schedules match one to one. Timesteps of two
    schedules are never matched by number, because the same number is another noise level there.

    Args:
        trained: timestep -> (step, sigma, number of steps), of `Probes.steps`.
        sigmas: one for each step, noise first; a closing 0 is ignored.

    Raises:
        ValueError: no step of this schedule is near a trained one.
    """
    steps = [float(sigma) for sigma in sigmas if sigma > 0]
    claims = sorted(
        (abs(steps[k] - sigma), k, timestep)
        for timestep, (_, sigma, _) in trained.items()
        for k in [min(range(len(steps)), key=lambda k: abs(steps[k] - sigma))]
    )
    found: dict[int, int] = {}
    for distance, k, timestep in claims:
        if distance <= SIGMA_TOLERANCE and len(steps) - k not in found:
            found[len(steps) - k] = timestep
    if not found:
        known = ", ".join(f"{sigma:.3f}" for _, sigma, _ in trained.values())
        here = ", ".join(f"{sigma:.3f}" for sigma in steps)
        raise ValueError(
            f"no step of this schedule is within {SIGMA_TOLERANCE} of a sigma the probes were trained at ({known}; "
            f"here {here}): generate with the training study's number of steps and size, or train probes on this one"
        )
    return dict(sorted(found.items(), reverse=True))
