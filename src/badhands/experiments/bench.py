"""What all experiments of one model share: the scene, the probes, the judge, and the folder they write into."""

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from badhands.diffusion.models import ModelSpec
from badhands.diffusion.scene import Scene
from badhands.experiments.fresh_table import NAME, FreshImages, FreshTable, fill_table
from badhands.experiments.referee import made_with
from badhands.probes.artifact import Probes


@dataclass(frozen=True)
class Bench:
    """One model at work."""

    spec: ModelSpec
    probes: Probes
    judge: Any
    source: str
    """`tiny_hands`, `hands`, or a prompt file: see `fresh_pairs`."""
    folder: Path
    known: Collection[str] = ()
    """Prompts of the training study."""
    pipe: Any = None

    @cached_property
    def scene(self) -> Scene:
        """Loaded when first asked for."""
        return Scene(self.spec, (), self.pipe)

    def fresh(self, images: FreshImages) -> FreshTable:
        """The table of fresh images, drawn where it is missing.

        Raises:
            ValueError: the folder holds another model's table, or the judge calls all images alike.
        """
        pairs = images.pairs(self.source, self.known)
        path = self.folder / NAME
        said = made_with(self.spec, self.probes, pairs, self.source) | {"prompts_drawn": images.prompts}
        self.scene.embed(pair.prompt for pair in pairs)
        table = FreshTable.of(fill_table(path, pairs, self.scene, self.probes, self.judge, said))
        if not table.good.any() or table.good.all():
            raise ValueError(f"{int(table.good.sum())} of {len(pairs)} images are good hands: nothing can be compared")
        return table

    def write(self, name: str, table: pd.DataFrame) -> None:
        """`<name>.csv` in the folder."""
        table.to_csv(self.folder / f"{name}.csv", index=False, float_format="%.6g")
