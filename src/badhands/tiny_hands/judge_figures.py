# The annotations of diffusers deny their own documented use, so this check is off here.
# pyright: reportArgumentType=false
"""The judge's figures: `python -m badhands.tiny_hands.judge_figures` prints them.

`threshold=0.9` tries another threshold, `judge=FOLDER` another judge.
"""

import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from PIL import Image

from badhands.tiny_hands import CHECKPOINTS
from badhands.tiny_hands.anatomy import ERRORS, Hands, sample_hands
from badhands.tiny_hands.attributes import attributes_of
from badhands.tiny_hands.judge import FOLDER, Judge, Verdict
from badhands.tiny_hands.making.autoencoder import round_trip
from badhands.tiny_hands.renderer import SIZE, Rendered, render, to_uint8, token_mask

HELD_OUT_SEED = 2_000_000_011
"""Training seeds lie below 2e9; no render of this one was seen."""
SHEET, LABELS = "by_eye.png", "by_eye.csv"
COLUMNS = 20


def of_renders(verdicts: list[Verdict], hands: Hands, truth: Rendered) -> dict[str, float]:
    """Shares in 0..1 over renders (or their round trips), of which the truth is known."""
    good = hands.is_good.numpy()
    said = np.array([v.verdict for v in verdicts])
    sure = said != "abstain"
    right = np.where(good, said == "good", said == "bad")
    tokens, true_tokens = np.stack([v.token_mask for v in verdicts]), token_mask(truth.masks).numpy()
    overlap = (tokens & true_tokens).sum((1, 2)) / (tokens | true_tokens).sum((1, 2)).clip(min=1)
    counted = good | hands.is_global.numpy()
    fingers = np.array([v.fingers for v in verdicts]) == hands.digits.numpy()
    named = (said == "bad") & ~good
    kind = np.array([v.kind == "global" for v in verdicts]) == hands.is_global.numpy()
    found = {
        "right, of those decided": right[sure].mean(),
        "abstained": 1 - sure.mean(),
        "right, good hands": right[sure & good].mean(),
        "right, bad hands": right[sure & ~good].mean(),
        "token mask IoU": overlap.mean(),
        "fingers counted right": fingers[counted].mean(),
        "local or global right": kind[named].mean(),
    }
    for i, error in enumerate(ERRORS):
        mine = sure & (hands.error.numpy() == i + 1)
        found[f"right, {error}"] = right[mine].mean()
    return {name: float(value) for name, value in found.items()}


def by_eye(folder: str | Path = FOLDER) -> tuple[np.ndarray, pd.DataFrame]:
    """Generated images that were judged by eye and never trained on: uint8 [n, 64, 64, 3], and their table."""
    table = pd.read_csv(Path(folder) / LABELS)
    sheet = np.asarray(Image.open(Path(folder) / SHEET).convert("RGB"))
    rows = sheet.shape[0] // SIZE
    tiles = sheet.reshape(rows, SIZE, COLUMNS, SIZE, 3).swapaxes(1, 2).reshape(-1, SIZE, SIZE, 3)
    return tiles[: len(table)], table


def against_eye(verdicts: list[Verdict], eye: np.ndarray) -> dict[str, float]:
    """Shares in 0..1; `eye` holds "good", "bad" or "unclear". Right or wrong where both decided, abstained of all."""
    said = np.array([v.verdict for v in verdicts])
    decided = (said != "abstain") & (eye != "unclear")
    found = {"images": float(len(eye)), "abstained, of all": float((said == "abstain").mean())}
    found["right, of those decided"] = float((said == eye)[decided].mean())
    for word in ("good", "bad"):
        found[f"right, {word} by eye"] = float((said == eye)[decided & (eye == word)].mean())
        found[f"abstained, {word} by eye"] = float((said == "abstain")[eye == word].mean())
    return found


def confusion(verdicts: list[Verdict], eye: np.ndarray) -> pd.DataFrame:
    """Counts: a row for each verdict of the judge, abstentions among them, a column for each of the eye."""
    table = pd.crosstab(np.array([v.verdict for v in verdicts]), eye)
    return table.reindex(index=["good", "bad", "abstain", "no_hand"], columns=["good", "bad", "unclear"], fill_value=0)


def show(title: str, found: dict[str, float]) -> None:
    print(f"\n{title}")
    for name, value in found.items():
        print(f"  {name:26s} {value:9.4f}" if value <= 1 else f"  {name:26s} {value:9.0f}")


def main(arguments: list[str] | None = None, n: int = 2000) -> None:
    words = {
        word.partition("=")[0]: word.partition("=")[2] for word in (sys.argv[1:] if arguments is None else arguments)
    }
    if unknown := set(words) - {"judge", "threshold"}:
        raise ValueError(f"unknown setting {min(unknown)!r}: use threshold=0.5..1 or judge=FOLDER")
    judge = Judge.load(words.get("judge", FOLDER))
    judge = Judge(judge.net, float(words.get("threshold", judge.threshold)), judge.slope, judge.offset)
    hands = sample_hands(n, HELD_OUT_SEED, bad_share=0.5)
    drawn = render(hands)
    images = to_uint8(drawn.images).numpy()
    started = time.perf_counter()
    show(f"{n} held-out renders, threshold {judge.threshold}", of_renders(judge.judge(images), hands, drawn))
    print(f"  seconds for 400 images     {(time.perf_counter() - started) * 400 / n:9.2f}")
    vae = AutoencoderKL.from_pretrained(CHECKPOINTS / "clean" / "vae", dtype=torch.float32, local_files_only=True)
    tripped = round_trip(vae, drawn.images)
    show("the same through the VAE", of_renders(judge.judge(to_uint8(tripped).numpy()), hands, drawn))
    if (FOLDER / LABELS).is_file():
        pictures, table = by_eye()
        verdicts = judge.judge(pictures)
        table["skin"] = [attributes_of(prompt)["skin"] for prompt in table["prompt"]]
        for axis in ("source", "skin"):
            for value, rows in table.groupby(axis):
                found = against_eye([verdicts[i] for i in rows.index], rows["eye"].to_numpy())
                show(f"against the eye: {value}", found)
        show("against the eye: all", against_eye(verdicts, table["eye"].to_numpy()))
        print(f"\nverdicts (rows) and the eye (columns)\n{confusion(verdicts, table['eye'].to_numpy())}")


if __name__ == "__main__":
    main()
