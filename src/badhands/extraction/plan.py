"""Which images a study consists of, and which of them are this worker's."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from badhands.study.manifest import ImageEntry, check_id
from badhands.study.prompts import Prompt


@dataclass(frozen=True)
class Planned:
    """An image to be made: its id says from which prompt and seed."""

    id: str
    prompt: Prompt
    seed: int


@dataclass(frozen=True)
class Shard:
    """Every `count`-th image, from the `index`-th on."""

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ValueError(f"shard={self.index}/{self.count}: the first number goes from 0 to {self.count - 1}")

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """From `i/n`.

        Raises:
            ValueError: `text` is not of this form.
        """
        match = re.fullmatch(r"(\d+)/(\d+)", str(text))
        if match is None or int(match[2]) < 1:
            raise ValueError(f"shard={text}: write 0/8 for the first of eight workers")
        return cls(int(match[1]), int(match[2]))

    def holds(self, position: int) -> bool:
        return position % self.count == self.index


def plan_images(prompts: Sequence[Prompt], images: int, first_seed: int) -> tuple[Planned, ...]:
    """Image i has prompt i (beginning again after the last) and seed `first_seed + i`; a longer plan begins alike.

    Raises:
        ValueError: a negative seed, or a prompt id too long to become an image id.
    """
    if first_seed < 0:
        raise ValueError(f"seeds={first_seed}: the first seed must be 0 or more")
    planned = []
    for i in range(images):
        prompt, seed = prompts[i % len(prompts)], first_seed + i
        planned.append(Planned(check_id(f"{prompt.id}-s{seed}"), prompt, seed))
    return tuple(planned)


def check_plan(plan: Sequence[Planned], known: Mapping[str, ImageEntry], height: int, width: int) -> None:
    """Raises ValueError where an image that exists was made from something else than the plan says."""
    texts = {entry.prompt_id: (entry.prompt, entry.id) for entry in known.values()}
    for planned in plan:
        text, image_id = texts.get(planned.prompt.id, (planned.prompt.text, ""))
        if text != planned.prompt.text:
            raise ValueError(
                f"two prompts have the id {planned.prompt.id!r}: image {image_id} of the study was made from {text!r}, "
                f"the prompts now say {planned.prompt.text!r}; give the new prompt another id, or name another study="
            )
        entry = known.get(planned.id)
        if entry is not None and (entry.height, entry.width) != (height, width):
            raise ValueError(
                f"image {entry.id} of the study has {entry.height} x {entry.width} px, the model now makes "
                f"{height} x {width} px: name another study="
            )
