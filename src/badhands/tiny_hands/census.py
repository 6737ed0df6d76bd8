"""`python -m badhands.tiny_hands.census model=tiny_hands`: what an embedded model draws, over fresh prompts and seeds.

Prints the figures of the checkpoint's card and writes a sheet of hands with the judge's verdicts. Run again, it goes on
where it stopped.
"""

import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from PIL import Image, ImageDraw
from scipy.stats import binomtest
from tqdm import tqdm

from badhands.diffusion.scene import Pair, Scene
from badhands.diffusion.spec import ModelSpec
from badhands.figures.palette import BAD, GOOD, NOT_HAND
from badhands.home import OUTPUTS, command
from badhands.tiny_hands.attributes import VOCABULARY, attributes_of, random_captions
from badhands.tiny_hands.judge import Judge, Verdict
from badhands.tiny_hands.obeys import obedience

FIRST_SEED = 1_000_000
"""Far from the seeds of studies; the prompts are drawn with a seed of their own too."""


def draw(spec: ModelSpec, count: int, folder: Path) -> tuple[np.ndarray, list[str]]:
    """`count` images uint8 [n, h, w, 3] of fresh (prompt, seed) pairs; batches kept in `folder` are read, not made."""
    folder.mkdir(parents=True, exist_ok=True)
    prompts = [text for text, _ in random_captions(count, FIRST_SEED)]
    scene, images = Scene(spec, prompts), []
    for start in tqdm(range(0, count, spec.batch_size), desc=f"draw with {spec.name}", unit="batch"):
        kept = folder / f"{start:06d}-{spec.batch_size}.npy"
        if not kept.exists():
            these = prompts[start : start + spec.batch_size]
            made = scene.generate([Pair(prompt, FIRST_SEED + start + i) for i, prompt in enumerate(these)])
            temporary = kept.with_suffix(".tmp.npy")
            np.save(temporary, np.stack([np.asarray(image) for image in made]))
            temporary.rename(kept)
        images.append(np.load(kept))
    return np.concatenate(images), prompts


def figures(images: np.ndarray, prompts: list[str], verdicts: list[Verdict]) -> list[str]:
    """The lines of the card, each a figure with its count."""
    obeyed = obedience(images, prompts)
    lines = [f"prompt obeyed, {name}: {100 * flags.mean():.1f} %" for name, flags in obeyed.items()]
    together = np.logical_and.reduce([obeyed[name] for name in ("background", "skin", "direction")])
    lines.append(f"prompt obeyed, background, skin and direction together: {100 * together.mean():.1f} %")
    count = Counter(v.verdict for v in verdicts)
    n, judged = len(verdicts), count["good"] + count["bad"]
    lines.append(f"a hand is there: {100 * (n - count['no_hand']) / n:.1f} % of {n}")
    lines.append(f"the judge abstains: {100 * count['abstain'] / n:.1f} %")
    low, high = binomtest(count["bad"], judged).proportion_ci(method="wilson")
    lines.append(f"bad, of {judged} judged: {100 * count['bad'] / judged:.1f} % ({100 * low:.1f} to {100 * high:.1f})")
    kinds = Counter(v.kind for v in verdicts if v.verdict == "bad")
    lines.append("kinds of the bad: " + ", ".join(f"{kind} {k}" for kind, k in sorted(kinds.items(), key=str)))
    for axis, words in VOCABULARY.items():
        shares = []
        for word in words:
            of_word = [v.verdict for v, p in zip(verdicts, prompts, strict=True) if attributes_of(p)[axis] == word]
            bad, good = of_word.count("bad"), of_word.count("good")
            shares.append(f"{word} {100 * bad / max(1, bad + good):.0f} %")
        lines.append(f"bad by {axis}: " + ", ".join(shares))
    return lines


def sheet(images: np.ndarray, verdicts: list[Verdict], columns: int = 16, rows: int = 8, zoom: int = 2) -> Image.Image:
    """The first images, framed blue where the judge says good, vermillion where bad, grey where it abstains."""
    colours = {"good": GOOD, "bad": BAD, "abstain": NOT_HAND, "no_hand": NOT_HAND}
    side = images.shape[1] * zoom
    page = Image.new("RGB", (columns * (side + 8), rows * (side + 8)), "white")
    pen = ImageDraw.Draw(page)
    for i, (image, verdict) in enumerate(zip(images[: columns * rows], verdicts, strict=False)):
        x, y = (i % columns) * (side + 8) + 4, (i // columns) * (side + 8) + 4
        pen.rectangle((x - 3, y - 3, x + side + 2, y + side + 2), fill=colours[verdict.verdict])
        page.paste(Image.fromarray(image).resize((side, side), Image.Resampling.NEAREST), (x, y))
    return page


def seconds_per_batch(spec: ModelSpec, size: int = 16) -> float:
    """Seconds that one batch of `size` images takes, after one to warm up."""
    options: dict[str, Any] = {**vars(spec), "batch_size": size}
    spec = ModelSpec(**options)
    pairs = [Pair(text, seed) for seed, (text, _) in enumerate(random_captions(size, 0))]
    scene = Scene(spec, [pair.prompt for pair in pairs])
    for _ in range(2):
        start = time.perf_counter()
        list(scene.generate(pairs))
    return time.perf_counter() - start


@command("census")
def main(cfg: DictConfig) -> None:
    options: Any = OmegaConf.to_container(cfg.model, resolve=True)
    spec = ModelSpec.of(options)
    torch.set_num_threads(cfg.threads)
    out = OUTPUTS / "census" / spec.name
    images, prompts = draw(spec, cfg.count, out / "batches")
    verdicts = Judge.load().to(spec.torch_device()).judge(images)
    lines = figures(images, prompts, verdicts)
    folder = spec.folder
    assert folder is not None, "the embedded models are local folders"
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    lines.append(f"folder: {size / 1e6:.2f} MB")
    lines.append(f"a batch of 16 images: {seconds_per_batch(spec):.1f} s on {cfg.threads} threads")
    print("\n".join(lines))
    (out / "figures.txt").write_text("\n".join(lines) + "\n")
    sheet(images, verdicts).save(out / "sheet.png")
    print(f"sheet: {out / 'sheet.png'}")


if __name__ == "__main__":
    main()
