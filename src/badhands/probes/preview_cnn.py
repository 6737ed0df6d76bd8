"""A small convolutional network that judges the picture so far: what the labels teach without any activation.

It sees the hand cut out of the predicted clean picture of a timestep, and which timestep that is. It learns from the
same labels in the same folds as the probes: the baseline that a user could train on the same day.
"""

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from badhands.stats.threads import spread

SIDE = 48
"""Hands are cut out and scaled to this many px: a few hundred labels cannot use more."""
EPOCHS = 30
"""On 256 labelled hands of an embedded model 12 gave AUROC 0.70 at the last steps, 30 gave 0.83."""
BATCH = 128
LR = 4e-3
DROPPED = 0.3
"""Share of features set to 0 while training."""
SHIFT = 3
"""Px by which a cut-out is moved at random while training."""


class PreviewNet(nn.Module):
    """Three strided convolutions, then mean and maximum; a bias a timestep after the first. About 20,000 weights."""

    def __init__(self, timesteps: int, widths: tuple[int, int, int] = (16, 32, 48)) -> None:
        super().__init__()
        ins = (3, *widths[:-1])
        self.layers = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in zip(ins, widths, strict=True))
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in widths)
        self.when = nn.Embedding(timesteps, widths[0])
        self.head = nn.Linear(2 * widths[-1], 1)

    def forward(self, x: Tensor, timestep: Tensor, g: torch.Generator | None = None) -> Tensor:
        """float[n, 3, h, w] in -1..1 and int64[n] -> logits of good, [n]. With a generator, features are dropped."""
        for i, (layer, norm) in enumerate(zip(self.layers, self.norms, strict=True)):
            x = norm(layer(x))
            x = F.relu(x + self.when(timestep)[:, :, None, None] if i == 0 else x)
        x = torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1)
        if g is not None:
            x = x * (torch.rand(x.shape, generator=g).to(x.device) >= DROPPED) / (1 - DROPPED)
        return self.head(x)[:, 0]


def cut_out(picture: NDArray[np.uint8], hand: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """uint8[SIDE, SIDE, 3]: the square round the hand, one token wider on each side.

    Args:
        picture: uint8[H, W, 3]. hand: bool[h, w] on the token grid; without any hand token the whole picture is taken.
    """
    patch = picture.shape[0] / hand.shape[0]
    where = np.argwhere(hand) if hand.any() else np.argwhere(np.ones_like(hand))
    low, high = where.min(0) * patch, (where.max(0) + 1) * patch
    half = max(1, round((high - low).max() / 2 + patch))
    row, column = ((low + high) / 2).round().astype(int)
    padded = np.pad(picture, ((half, half), (half, half), (0, 0)), mode="edge")
    square = padded[row : row + 2 * half, column : column + 2 * half]
    x = rearrange(torch.from_numpy(square.copy()), "h w c -> 1 c h w").float()
    small = F.interpolate(x, size=(SIDE, SIDE), mode="bilinear", antialias=True)
    return rearrange(small.round().to(torch.uint8), "1 c h w -> h w c").numpy()


def cnn_scores(
    hands: NDArray[np.uint8],
    good: NDArray[np.bool_],
    folds: NDArray[np.integer],
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> NDArray[np.float32]:
    """Held-out logits of good of every image at every timestep, for each draw of folds.

    Args:
        hands: uint8[t, m, SIDE, SIDE, 3]. good: bool[m]. folds: int[draws, m].

    Returns:
        float32[t, draws, m].
    """
    x = rearrange(torch.from_numpy(hands).to(device), "t m h w c -> t m c h w").float() / 127.5 - 1
    y = torch.from_numpy(good.astype(np.float32)).to(device)
    out = np.zeros((len(hands), *folds.shape), np.float32)

    def one(job: tuple[int, int]) -> None:
        r, k = job
        test = np.flatnonzero(folds[r] == k)
        out[:, r, test] = _scores(_train(x, y, np.flatnonzero(folds[r] != k), seed + 1000 * r + k), x[:, test])

    spread(one, [(r, int(k)) for r, fold in enumerate(folds) for k in np.unique(fold)])
    return out


def _train(x: Tensor, y: Tensor, images: NDArray[np.intp], seed: int) -> PreviewNet:
    """A network fitted to cut-outs of the given images, all timesteps together, turned, mirrored and moved."""
    g = torch.Generator().manual_seed(seed)
    net = _fresh(len(x), g).to(x.device)
    pairs = torch.cartesian_prod(torch.arange(len(x)), torch.from_numpy(images))
    optimizer = torch.optim.AdamW(net.parameters(), LR, weight_decay=0.05)
    steps = EPOCHS * -(-len(pairs) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, total_steps=steps)
    share = float(y[images].mean().clamp(0.01, 0.99))
    with torch.enable_grad():
        for _ in range(EPOCHS):
            for batch in pairs[torch.randperm(len(pairs), generator=g)].split(BATCH):
                batch = batch.to(x.device)
                label = y[batch[:, 1]]
                weight = torch.where(label > 0, 0.5 / share, 0.5 / (1 - share))  # both classes count the same
                picture = _moved(x[batch[:, 0], batch[:, 1]], g)
                loss = F.binary_cross_entropy_with_logits(net(picture, batch[:, 0], g), label, weight)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                schedule.step()
    return net.eval()


def _fresh(timesteps: int, g: torch.Generator) -> PreviewNet:
    """Weights from the generator, not from the global seed: networks are trained side by side in threads."""
    net = PreviewNet(timesteps)
    with torch.no_grad():
        for name, weight in net.named_parameters():
            if name.endswith("weight") and weight.ndim > 1:
                fan = weight[0].numel() if weight.ndim > 2 or "head" in name else 10_000
                weight.copy_(torch.randn(weight.shape, generator=g) * (2 / fan) ** 0.5)
            elif "norms" not in name:
                weight.zero_()
    return net.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def _moved(x: Tensor, g: torch.Generator) -> Tensor:
    """A batch turned by quarter turns, mirrored and shifted: none of these makes a good hand bad."""
    turns, mirror = int(torch.randint(4, (), generator=g)), bool(torch.rand((), generator=g) < 0.5)
    x = torch.rot90(x, turns, (2, 3))
    x = x.flip(3) if mirror else x
    shifts = torch.randint(-SHIFT, SHIFT + 1, (2,), generator=g).tolist()
    return torch.roll(x, shifts, (2, 3)).contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def _scores(net: PreviewNet, x: Tensor) -> NDArray[np.float32]:
    """[t, n], mean over four turns."""
    rows = []
    for t, pictures in enumerate(x):
        when = torch.full((len(pictures),), t, device=x.device)
        rows.append(torch.stack([net(torch.rot90(pictures, k, (2, 3)), when) for k in range(4)]).mean(0))
    return torch.stack(rows).cpu().numpy()
