# The annotations of torch and diffusers deny their own documented use, so these checks are off here.
# pyright: reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false
"""Tunes the last layers of a trained judge to verdicts given by eye on generated images; the rest stays as it is.

    python -m badhands.tiny_hands.making.judge_tuning start=FOLDER labelled=FILE.npz out=FOLDER

`labelled` holds uint8 `images` [n, 64, 64, 3], int `verdict` [n] (0 bad, 1 good) and float `weight` [n]. Renders and
malformations stay in the mixture, so that nothing learned is forgotten. Minutes on two cores.
"""

import sys
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from badhands.tiny_hands.judge_model import Answers, JudgeNet, load_judge, save_judge
from badhands.tiny_hands.making.judge_batches import Batch, cat, make_batch
from badhands.tiny_hands.making.judge_training import losses


@dataclass(frozen=True)
class JudgeTuning:
    """Settings of one tuning."""

    start: str
    labelled: str
    out: str
    reference: int = 5000
    """Renders and malformations drawn anew."""
    steps: int = 1500
    learning_rate: float = 5e-4
    eye_share: float = 0.5
    """Share of each batch that was judged by eye."""
    seed: int = 3


@torch.no_grad()
def seen(net: JudgeNet, images: Tensor) -> Tensor:
    """float [n, features]: what the last layers decide from."""
    return torch.cat([net.look(part)[2] for part in images.split(32)])


def eight_views(images: Tensor) -> Tensor:
    """[8 n, 3, 64, 64]: turned and mirrored; neither changes a verdict."""
    turned = [torch.rot90(images, k, (2, 3)) for k in range(4)]
    return torch.cat([view for part in turned for view in (part, part.flip(3))])


def tune(config: JudgeTuning) -> JudgeNet:
    """Tunes and saves to `config.out`.

    Raises:
        ValueError: the judge to start from is missing or damaged.
    """
    torch.manual_seed(config.seed)
    net, card = load_judge(config.start)
    size = 250
    batches = [make_batch(size, 700_000_000 + config.seed * 1000 + i) for i in range(-(-config.reference // size))]
    reference = cat(batches)
    known = torch.cat([seen(net, b.images) for b in batches])
    data = np.load(config.labelled)
    images = torch.from_numpy(data["images"]).permute(0, 3, 1, 2).float() / 255
    by_eye = seen(net, eight_views(images))
    good = torch.from_numpy(data["verdict"] == 1).float().repeat(8)
    weight = torch.from_numpy(data["weight"]).float().repeat(8)
    # Good and bad weigh the same, whatever their numbers.
    for verdict in (0, 1):
        weight[good == verdict] /= weight[good == verdict].sum().clamp(min=1e-6)
    optimiser = torch.optim.AdamW(net.whole.parameters(), config.learning_rate, weight_decay=0.05)
    g = torch.Generator().manual_seed(config.seed)
    for step in range(config.steps):
        for group in optimiser.param_groups:
            group["lr"] = config.learning_rate * (0.5 + 0.5 * np.cos(np.pi * step / config.steps))
        pick = torch.randint(len(known), (256,), generator=g)
        whole = net.whole(known[pick])
        rows = Batch(**{f.name: getattr(reference, f.name)[pick] for f in fields(Batch)})
        answers = Answers(rows.mask, rows.wrong, whole[:, 0], whole[:, 1], whole[:, 2], whole[:, 3:])
        terms = losses(answers, rows)
        loss = terms["good"] + terms["kind"] + terms["fingers"] + terms["hand"]
        eye = torch.multinomial(weight, 256, replacement=True, generator=g)
        own = F.binary_cross_entropy_with_logits(net.whole(by_eye[eye])[:, 0], good[eye])
        loss = loss * (1 - config.eye_share) + own * config.eye_share
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % 250 == 0 or step == config.steps - 1:
            print(f"step {step} renders {float(terms['good'].detach()):.3f} eye {float(own.detach()):.3f}", flush=True)
    save_judge(net.eval(), config.out, {k: v for k, v in card.items() if k != "shape"})
    return net


if __name__ == "__main__":
    words = dict(word.partition("=")[::2] for word in sys.argv[1:])
    types = {f.name: f.type for f in fields(JudgeTuning)}
    unknown = set(words) - set(types)
    if unknown or not {"start", "labelled", "out"} <= set(words):
        raise SystemExit(f"give start=, labelled= and out=; known settings: {', '.join(types)}")
    tune(JudgeTuning(**{name: types[name](value) for name, value in words.items()}))  # type: ignore[operator]
