"""`python -m badhands.replicate.coverage`: do 95 % intervals hold the truth in 95 % of simulated data sets?"""

from pathlib import Path

import pandas as pd
from omegaconf import DictConfig
from tqdm import tqdm

from badhands.home import OUTPUTS, command


@command("coverage")
def main(cfg: DictConfig) -> None:
    if cfg.data_sets < 1 or min(cfg.images) < 20:
        raise ValueError(f"data_sets={cfg.data_sets}, images={cfg.images}: give 1 or more data sets of 20 or more")
    prompts = cfg.shared_prompts
    if prompts is not None and (prompts < 5 or any(n % 2 or n < 2 * prompts for n in cfg.images)):
        raise ValueError(f"shared_prompts={prompts}: give 5 or more, and even numbers of images, two a prompt or more")
    print(run(OUTPUTS / "coverage", list(cfg.images), cfg.data_sets, cfg.permutations, prompts))


def run(folder: Path, images: list[int], data_sets: int, permutations: int, prompts: int | None = None) -> str:
    """Simulate, and tell the table; data sets that `folder` has already are kept, so an interrupted command goes on."""
    from badhands.replicate.simulated import coverage, told

    shared = f"-{prompts}-prompts" if prompts else ""
    parts = [
        _simulate(
            folder / f"{'planted' if planted else 'null'}-{n}-{permutations}{shared}.csv",
            n, planted, data_sets, permutations, prompts,
        )
        for planted in (False, True)
        for n in images
    ]  # fmt: skip
    table, path = coverage(pd.concat(parts)), folder / f"coverage{shared}.csv"
    table.to_csv(path, index=False, float_format="%.4g")
    return f"{told(table)}\n{path}"


def _simulate(
    path: Path, images: int, planted: bool, data_sets: int, permutations: int, prompts: int | None
) -> pd.DataFrame:
    from badhands.replicate.simulated import intervals_of

    path.parent.mkdir(parents=True, exist_ok=True)
    rows = pd.read_csv(path).to_dict("records") if path.is_file() else []
    first = 1 + max((int(row["seed"]) for row in rows), default=-1)
    for seed in tqdm(range(first, data_sets), initial=first, total=data_sets, desc=path.stem, unit="data set"):
        about = {"seed": seed, "images": images, "planted": planted}
        rows += [{**about, **row} for row in intervals_of(images, planted, seed, permutations, prompts)]
        if seed % 10 == 9 or seed == data_sets - 1:
            partial = path.with_suffix(".tmp")
            pd.DataFrame(rows).to_csv(partial, index=False)
            partial.replace(path)
    found = pd.DataFrame(rows)
    return found[found["seed"] < data_sets]


if __name__ == "__main__":
    main()
