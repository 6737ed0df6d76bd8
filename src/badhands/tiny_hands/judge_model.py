"""The judge's network: a small U-Net with one head a question, and the folder it is kept in."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

MOST_FINGERS = 7
WEIGHTS, CARD = "judge.safetensors", "judge.json"


@dataclass(frozen=True)
class Answers:
    """What the network says of `n` images; all logits, float."""

    mask: Tensor
    """[n, 64, 64]: positive where the hand is."""
    wrong: Tensor
    """[n, 64, 64]: positive where something is malformed."""
    good: Tensor
    """[n]: positive for a good hand."""
    is_global: Tensor
    """[n]: positive if what is wrong is the number of digits; means nothing for a good hand."""
    hand: Tensor
    """[n]: positive if there is a hand at all."""
    fingers: Tensor
    """[n, 8]: 0 to 7 digits, the thumb included."""


@dataclass(frozen=True)
class JudgeShape:
    """Channels at 64, 32, 16 and 8 px, and residual blocks at 32 and 16 px."""

    widths: tuple[int, int, int, int] = (16, 40, 80, 104)
    depth: int = 3


class Residual(nn.Module):
    """Two 3 x 3 convolutions with group norm, and the input added."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(8, channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(8, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(F.silu(self.norm2(hidden)))


class JudgeNet(nn.Module):
    """float [n, 3, 64, 64] in 0..1 -> `Answers`."""

    def __init__(self, shape: JudgeShape = JudgeShape()) -> None:
        super().__init__()
        self.shape = shape
        a, b, c, d = shape.widths
        self.stem = nn.Sequential(nn.Conv2d(3, a, 3, padding=1), Residual(a))
        self.to32 = nn.Sequential(nn.Conv2d(a, b, 4, 2, 1), *(Residual(b) for _ in range(shape.depth)))
        self.to16 = nn.Sequential(nn.Conv2d(b, c, 4, 2, 1), *(Residual(c) for _ in range(shape.depth)))
        self.to8 = nn.Sequential(nn.Conv2d(c, d, 2, 2), Residual(d))
        self.up16 = nn.Conv2d(d, c, 1)
        self.mix16 = Residual(c)
        self.up32 = nn.Conv2d(c, b, 1)
        self.mix32 = Residual(b)
        self.up64 = nn.Conv2d(b, a, 1)
        self.mix64 = Residual(a)
        self.pixels = nn.Conv2d(a, 2, 1)
        self.whole = nn.Sequential(nn.Linear(2 * d + 2 * c + 2, 128), nn.SiLU(), nn.Linear(128, 3 + MOST_FINGERS + 1))

    def forward(self, images: Tensor) -> Answers:
        mask, wrong, seen = self.look(images)
        whole = self.whole(seen)
        return Answers(mask, wrong, whole[:, 0], whole[:, 1], whole[:, 2], whole[:, 3:])

    def look(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Both maps, and what the last layers decide from: [n, 2 d + 2 c + 2]."""
        x64 = self.stem(images * 2 - 1)
        x32 = self.to32(x64)
        x16 = self.to16(x32)
        x8 = self.to8(x16)
        y16 = self.mix16(x16 + F.interpolate(self.up16(x8), scale_factor=2.0))
        y32 = self.mix32(x32 + F.interpolate(self.up32(y16), scale_factor=2.0))
        y64 = self.mix64(x64 + F.interpolate(self.up64(y32), scale_factor=2.0))
        mask, wrong = self.pixels(y64).unbind(1)
        # The worst place decides as much as the average: a hand is as good as its worst finger.
        worst = F.avg_pool2d(wrong[:, None], 3, 1).flatten(1)
        seen = [x8.mean((2, 3)), x8.amax((2, 3)), y16.mean((2, 3)), y16.amax((2, 3))]
        seen += [worst.amax(1, keepdim=True), worst.topk(64, 1).values.mean(1, keepdim=True)]
        return mask, wrong, torch.cat(seen, 1)


def save_judge(net: JudgeNet, folder: str | Path, card: dict[str, float | int | str]) -> None:
    """Writes weights (float16) and the numbers that belong to them."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.detach().half().cpu().contiguous() for k, v in net.state_dict().items()}, folder / WEIGHTS)
    (folder / CARD).write_text(json.dumps({"shape": asdict(net.shape), **card}, indent=2) + "\n")


def load_judge(folder: str | Path) -> tuple[JudgeNet, dict]:
    """The network in float32, in evaluation mode, and its card.

    Raises:
        ValueError: the folder is missing or damaged; the message names the fix.
    """
    folder = Path(folder)
    for name in (WEIGHTS, CARD):
        if not (folder / name).is_file():
            raise ValueError(f"no judge in {folder}: {name} is missing; restore it with `git checkout -- {folder}`")
    try:
        card = json.loads((folder / CARD).read_text())
        shape = JudgeShape(tuple(card["shape"]["widths"]), card["shape"]["depth"])
        net = JudgeNet(shape)
        net.load_state_dict({k: v.float() for k, v in load_file(folder / WEIGHTS).items()})
    except Exception as error:
        raise ValueError(
            f"the judge in {folder} is damaged ({error}); restore it with `git checkout -- {folder}`"
        ) from error
    return net.eval(), card
