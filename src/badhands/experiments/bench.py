"""What all experiments of one model share: the scene, the probes, the judge, and the folder they write into."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from badhands.diffusion.scene import Pair, Scene
from badhands.diffusion.spec import ModelSpec
from badhands.experiments.fresh_table import NAME, FreshImages, FreshTable, fill_table
from badhands.experiments.referee import made_with
from badhands.experiments.rows import Artist, Draw, Row, fill_rows
from badhands.experiments.training_run import TrainingRun
from badhands.probes.artifact import Probes
from badhands.watch.fresh import FIRST_SEED, fresh_pairs

BATCH = 4
"""Pairs drawn together where each is drawn many times: on a CPU, so that many processes share them."""


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
    run: TrainingRun = field(default_factory=TrainingRun)
    """That the probes came from."""
    workers: int = 1
    """Processes that draw."""

    @cached_property
    def artist(self) -> Artist:
        """Of this process; its model is loaded when it draws."""
        return Artist(Scene(self.spec, (), self.pipe), self.probes, self.judge)

    def fresh(self, images: FreshImages) -> FreshTable:
        """The table of fresh images, drawn where it is missing.

        Raises:
            ValueError: the folder holds another model's table, or the judge calls all images alike.
        """
        pairs = images.pairs(self.source, self.known)
        made_with = self.made_with(pairs) | {"prompts_drawn": images.prompts}
        self.artist.scene.embed(pair.prompt for pair in pairs)
        table = FreshTable.of(fill_table(self.folder / NAME, pairs, self.artist, made_with, self.workers))
        if not table.good.any() or table.good.all():
            raise ValueError(f"{int(table.good.sum())} of {len(pairs)} images are good hands: nothing can be compared")
        return table

    def pairs(self, count: int, series: int) -> list[Pair]:
        """Fresh pairs for experiment number `series` (2, 3 ...): other seeds, and other prompts where there are."""
        return fresh_pairs(self.source, count, known=self.known, first_seed=series * FIRST_SEED, shuffle=series)

    def fill(
        self, name: str, pairs: Sequence[Pair], draw: Draw, settings: dict[str, Any], what: str, *, each: int
    ) -> list[Row]:
        """Rows of an experiment's raw table `<name>.jsonl`, drawn where they are missing.

        Args:
            settings: what the rows depend on beside model, probes and pairs.
        """
        self.artist.scene.embed(pair.prompt for pair in pairs)
        path, made_with = self.folder / f"{name}.jsonl", self.made_with(pairs) | settings
        on_cpu = self.spec.torch_device().type == "cpu"
        size = min(BATCH, self.spec.batch_size) if on_cpu else self.spec.batch_size
        return fill_rows(path, pairs, self.artist, draw, made_with, what, each=each, batch=size, workers=self.workers)

    def made_with(self, pairs: Sequence[Pair]) -> dict[str, Any]:
        """What a table stands on."""
        return made_with(self.spec, self.probes, pairs, self.source)

    def write(self, name: str, table: pd.DataFrame) -> None:
        """`<name>.csv` in the folder."""
        table.to_csv(self.folder / f"{name}.csv", index=False, float_format="%.6g")
