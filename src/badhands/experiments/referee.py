"""What every experiment stands on: a judge that decides, and a note of what its table was made with."""

from collections.abc import Sequence
from typing import Any

from badhands.diffusion.scene import Pair
from badhands.diffusion.spec import ModelSpec
from badhands.probes.artifact import Probes
from badhands.watch.fresh import find_judge


def referee(spec: ModelSpec) -> Any:
    """The judge that decides an experiment.

    Raises:
        ValueError: there is none for this model.
    """
    judge = find_judge(spec)
    if judge is None:
        raise ValueError("the experiments need a referee: they run with the embedded models (model=tiny_hands)")
    return judge


def made_with(spec: ModelSpec, probes: Probes, pairs: Sequence[Pair], source: str) -> dict[str, Any]:
    """What an experiment's table stands on: continued with anything else, it would mix two experiments."""
    return {"probes": probes.fingerprint, "card_date": probes.card.get("date"), "model": spec.name, "steps": spec.steps,
            "first_seed": pairs[0].seed, "prompts": source}  # fmt: skip
