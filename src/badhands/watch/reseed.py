"""Draw, stop what looks bad, take the next seed: batches keep the members that pass and are filled again."""

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from PIL import Image

from badhands.diffusion.moments import AllDropped
from badhands.diffusion.scene import Pair, Scene
from badhands.probes.artifact import Probes
from badhands.watch.policies import Policy
from badhands.watch.seen import Seen
from badhands.watch.watcher import watch


@dataclass
class Harvest:
    """What came through, and what it cost."""

    kept: list[tuple[Pair, Image.Image]] = field(default_factory=list)
    stopped: list[tuple[Pair, int]] = field(default_factory=list)
    """With the timestep after which each was stopped."""
    evaluations: int = 0
    """Transformer evaluations: one an image and step."""
    seconds: float = 0.0


def reseed(
    scene: Scene, probes: Probes, policy: Policy, pairs: Sequence[Pair], wanted: int | None = None,
    size: int | None = None,
) -> Harvest:  # fmt: skip
    """Work through `pairs` in batches of the model's size until `wanted` pictures came through (None: through all).

    A stopped image leaves its batch at once, so the steps that follow cost less; its place is filled by the next pair
    when the batch has ended, because all members of a batch share their timestep. A picture that came through stays.

    Args:
        size: pairs in a batch; None: the model's batch size. With the policy `Best` these are the seeds that compete.
    """
    size = size or scene.spec.batch_size
    found = Harvest()
    begin = time.perf_counter()
    for start in range(0, len(pairs), size):
        batch = pairs[start : start + size]
        watching = watch(scene.pipe, probes, policy, blocks=_blocks(policy), previews=False)
        seen: Seen = watching.seen
        with watching, contextlib.suppress(AllDropped):
            latents = scene.latents(batch)
            alive = [i for i in range(len(batch)) if (0, i) not in seen.stopped]
            found.kept += zip([batch[i] for i in alive], scene.pictures(latents), strict=True)
        found.stopped += [(batch[member], timestep) for (_, member), timestep in seen.stopped.items()]
        found.evaluations += seen.evaluations
        if wanted is not None and len(found.kept) >= wanted:
            break
    found.seconds = time.perf_counter() - begin
    return found


def _blocks(policy: Policy) -> list[str]:
    return sorted({cell.block for cell in policy.cells})
