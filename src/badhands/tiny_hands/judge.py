# The annotations of torch and diffusers deny their own documented use, so these checks are off here.
# pyright: reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false
"""The judge of tiny hands: where the hand is, how many fingers, good or bad and why, and when it would rather not say.

    verdicts = Judge.load().judge(images)

`python -m badhands.tiny_hands.judge_figures` prints its figures on held-out renders, on round trips through the
embedded model's VAE, and against verdicts given by eye on generated images.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from einops import rearrange
from PIL import Image

from badhands.tiny_hands import CHECKPOINTS
from badhands.tiny_hands.judge_model import Answers, JudgeNet, load_judge
from badhands.tiny_hands.renderer import SIZE, token_mask

FOLDER = CHECKPOINTS / "judge"
LEAST_HAND = 80
"""A mask of fewer pixels is no hand; the smallest hand of the renderer has about 500."""
CHUNK = 32


@dataclass(frozen=True)
class Verdict:
    """What the judge says of one image."""

    verdict: Literal["good", "bad", "abstain", "no_hand"]
    kind: Literal["local", "global"] | None
    """Of a bad hand: one place, or the number of digits. None for the others."""
    confidence: float
    """Calibrated probability of the better answer: 0.5..1, good or bad; for `no_hand`, that there is none."""
    fingers: int
    """Digits seen, the thumb included."""
    pixel_mask: np.ndarray
    """bool [64, 64]."""
    token_mask: np.ndarray
    """bool [16, 16]: tokens of which at least half is hand."""


class Judge:
    """A small network and the threshold below which it abstains."""

    def __init__(self, net: JudgeNet, threshold: float, slope: float = 1.0, offset: float = 0.0) -> None:
        """`slope` and `offset` calibrate: P(good) = sigmoid(slope * logit + offset)."""
        if not 0.5 <= threshold < 1:
            raise ValueError(f"threshold={threshold} must lie in 0.5..1: it is a probability of the better answer")
        self.net = net.eval().to(memory_format=torch.channels_last)
        self.threshold, self.slope, self.offset = threshold, slope, offset

    @classmethod
    def load(cls, folder: str | Path = FOLDER) -> "Judge":
        """The judge kept in `folder`.

        Raises:
            ValueError: it is missing or damaged; the message names the fix.
        """
        net, card = load_judge(folder)
        return cls(net, card["threshold"], card.get("slope", 1.0), card.get("offset", 0.0))

    def to(self, device: torch.device) -> "Judge":
        """Itself, working on this device from now on."""
        self.net.to(device)
        return self

    @torch.no_grad()
    def judge(self, images: np.ndarray) -> list[Verdict]:
        """One verdict an image, from the picture and its mirror image together.

        Args:
            images: uint8 [n, 64, 64, 3].

        Raises:
            ValueError: another size, shape or dtype.
        """
        images = np.asarray(images)
        if images.ndim != 4 or images.shape[1:] != (SIZE, SIZE, 3) or images.dtype != np.uint8:
            raise ValueError(
                f"the judge got images of {images.dtype} {list(images.shape)}: it knows uint8 [n, 64, 64, 3] alone, "
                "the size that the embedded models draw"
            )
        verdicts: list[Verdict] = []
        for start in range(0, len(images), CHUNK):
            verdicts += self._judge(images[start : start + CHUNK])
        return verdicts

    def _answers(self, images: np.ndarray) -> tuple[Answers, Answers]:
        """Of uint8 [n, 64, 64, 3], and of their mirror images; in full float32 on a GPU too, not TF32."""
        x = rearrange(torch.tensor(images), "n h w c -> n c h w").to(next(self.net.parameters()).device)
        x = (x.float() / 255).contiguous(memory_format=torch.channels_last)
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            return self.net(x), self.net(x.flip(3))

    def _judge(self, images: np.ndarray) -> list[Verdict]:
        one, two = self._answers(images)
        masks = ((one.mask + two.mask.flip(2)) > 0).cpu()
        tokens = token_mask(masks).numpy()
        good = torch.sigmoid(self.slope * (one.good + two.good) / 2 + self.offset).tolist()
        hand = torch.sigmoid((one.hand + two.hand) / 2).tolist()
        fingers = (one.fingers.softmax(1) + two.fingers.softmax(1)).argmax(1).tolist()
        is_global = ((one.is_global + two.is_global) > 0).tolist()
        area = masks.flatten(1).sum(1).tolist()
        found: list[Verdict] = []
        for i in range(len(images)):
            kind = None
            if hand[i] < 0.5 or area[i] < LEAST_HAND:
                verdict, confidence = "no_hand", max(1 - hand[i], 0.5)
            else:
                verdict, confidence = ("good", good[i]) if good[i] >= 0.5 else ("bad", 1 - good[i])
                # A good hand has five digits: where the two answers contradict each other, it does not know.
                if confidence < self.threshold or (verdict == "good" and fingers[i] != 5):
                    verdict = "abstain"
                elif verdict == "bad":
                    kind = "global" if is_global[i] else "local"
            found.append(Verdict(verdict, kind, confidence, fingers[i], masks[i].numpy(), tokens[i]))
        return found

    @torch.no_grad()
    def places(self, images: np.ndarray) -> np.ndarray:
        """bool [n, 64, 64]: pixels of uint8 [n, 64, 64, 3] where it sees something malformed; empty for a good hand."""
        said: list[torch.Tensor] = []
        for start in range(0, len(images), CHUNK):
            one, two = self._answers(images[start : start + CHUNK])
            said.append((one.wrong + two.wrong.flip(2)) > 0)
        return torch.cat(said).cpu().numpy()

    @torch.no_grad()
    def logits(self, images: np.ndarray) -> np.ndarray:
        """float [n]: uncalibrated logit of a good hand, for calibration."""
        said: list[torch.Tensor] = []
        for start in range(0, len(images), CHUNK):
            one, two = self._answers(images[start : start + CHUNK])
            said.append((one.good + two.good) / 2)
        return torch.cat(said).cpu().numpy()


@lru_cache(maxsize=1)
def _shipped() -> Judge:
    return Judge.load()


def good_logits(pictures: Sequence[Image.Image]) -> np.ndarray:
    """float[n]: the judge's logits of good hands, the embedded models' `referee=`. Pictures of 64 x 64 px."""
    return _shipped().logits(np.stack([np.array(picture.convert("RGB")) for picture in pictures]))
