"""Sets the threshold of a trained judge so that it abstains on a stated share of generated images that nobody labelled.

    python -m badhands.tiny_hands.making.judge_threshold judge=FOLDER images=FILE.npz abstain=0.08

No verdict by eye is looked at: those that check the judge stay unseen. `images` holds uint8 `images` [n, 64, 64, 3].
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from badhands.tiny_hands.judge import Judge
from badhands.tiny_hands.judge_model import CARD

LEAST, MOST = 0.55, 0.99


@dataclass(frozen=True)
class ThresholdSettings:
    """Where the judge is, what it looks at, and on how much it may abstain."""

    judge: str
    images: str
    abstain: float = 0.08

    def __post_init__(self) -> None:
        if not 0 < self.abstain < 1:
            raise ValueError(f"abstain={self.abstain} must lie between 0 and 1: it is a share of the images")


def threshold(judge: Judge, images: np.ndarray, abstain: float) -> float:
    """The largest threshold of 0.55, 0.56 .. 0.99 at which the judge abstains on at most this share; else 0.55."""
    verdicts = Judge(judge.net, 0.5, judge.slope, judge.offset).judge(images)
    torn = np.array([v.verdict == "abstain" for v in verdicts])
    sure = np.array([v.confidence for v in verdicts])
    silent = np.array([v.verdict == "no_hand" for v in verdicts])
    for value in np.arange(MOST, LEAST, -0.01).round(2):
        if ((torn | (sure < value)) & ~silent).mean() <= abstain:
            return float(value)
    return LEAST


def main(settings: ThresholdSettings) -> float:
    """Writes the threshold into the judge's card and returns it."""
    card = Path(settings.judge) / CARD
    images = np.load(settings.images)["images"]
    value = threshold(Judge.load(settings.judge), images, settings.abstain)
    card.write_text(json.dumps(json.loads(card.read_text()) | {"threshold": value}, indent=2) + "\n")
    print(f"threshold {value}, from {len(images)} images")
    return value


if __name__ == "__main__":
    words = {word.partition("=")[0]: word.partition("=")[2] for word in sys.argv[1:]}
    if set(words) - {"judge", "images", "abstain"} or not {"judge", "images"} <= set(words):
        raise SystemExit("give judge=FOLDER and images=FILE.npz; abstain=0.08 is the other setting")
    main(ThresholdSettings(words["judge"], words["images"], float(words.get("abstain", 0.08))))
