"""Draws hands from signed distances, in batches, on any device: 64 x 64 RGB and the hand's own pixels.

Every part is a capsule with two radii or a rounded box; its signed distance gives anti-aliased coverage, an outline and
a little shading. Distances: I. Quilez, "2D distance functions", https://iquilezles.org/articles/distfunctions2d/
"""

import math
from dataclasses import dataclass

import torch
from einops import rearrange, reduce
from torch import Tensor
from torch.nn import functional as F

from badhands.tiny_hands.anatomy import DIGITS, Hands
from badhands.tiny_hands.attributes import BACKGROUND_RGB, SKIN_RGB, SLEEVE_RGB, VOCABULARY

SIZE = 64
"""Pixels on a side."""
TOKEN = 4
"""Pixels on a side of one token of the embedded model."""
OUTLINE = (1.15, 0.95)
"""Width of the outline in px: drawing, painting."""


@dataclass(frozen=True)
class Rendered:
    images: Tensor
    """float32 [n, 3, 64, 64] in 0..1."""
    masks: Tensor
    """bool [n, 64, 64]: palm, wrist and digits; forearm and sleeve are not part of the hand."""


def token_mask(pixel_mask: Tensor, patch: int = TOKEN) -> Tensor:
    """bool [n, h, w] from bool [n, H, W]: a token is hand when at least half of its pixels are."""
    return reduce(pixel_mask.float(), "n (h p) (w q) -> n h w", "mean", p=patch, q=patch) >= 0.5


def to_uint8(images: Tensor) -> Tensor:
    """uint8 [n, 64, 64, 3] from float [n, 3, 64, 64] in 0..1."""
    return rearrange((images.clamp(0, 1) * 255).round().to(torch.uint8), "n c h w -> n h w c")


def render(hands: Hands) -> Rendered:
    """Draws a batch on the device that its tensors are on; few at a time, to stay in a CPU's caches."""
    chunk = 8 if hands.codes.device.type == "cpu" else 512
    parts = [_render(hands[slice(i, i + chunk)]) for i in range(0, len(hands), chunk)]
    return Rendered(torch.cat([p.images for p in parts]), torch.cat([p.masks for p in parts]))


def _render(hands: Hands) -> Rendered:
    device = hands.codes.device
    code = dict(zip(VOCABULARY, hands.codes.unbind(1), strict=True))
    xy = _local_coordinates(hands, code)
    digits = _capsules(xy, hands)  # [n, digit, H, W], px of the picture
    scale = hands.scale[:, None, None]
    half = hands.stretch[:, :, None, None]
    x, y = xy[:, 0], xy[:, 1]
    palm = _rounded_box(x, y, half[:, 0], half[:, 1], 5.0) * scale
    forearm = torch.maximum(x.abs() - 5.6 - 0.02 * (-y).clamp(min=0), y + half[:, 1] - 4.0) * scale
    body = torch.minimum(palm, forearm)

    def colours(table: tuple[tuple[float, float, float], ...], which: Tensor, tint: int) -> Tensor:
        return (torch.tensor(table, device=device)[which] + hands.tint[:, tint])[:, :, None, None]

    skin = colours(SKIN_RGB, code["skin"], 0)
    background = colours(BACKGROUND_RGB, code["background"], 1)
    sleeve = colours(SLEEVE_RGB, code["sleeve"], 2)
    painted = (code["style"] == 1)[:, None, None]
    ink = torch.where(painted[:, None], skin * 0.42, torch.full_like(skin, 0.10))
    width = torch.where(painted, OUTLINE[1], OUTLINE[0])

    light = _light(hands)
    behind = background * (1 + 0.05 * light)

    # A pixel is a mixture of background, ink and skin: three weights, painted part over part; colours come last.
    rest, inked, skinned = torch.ones_like(x), torch.zeros_like(x), torch.zeros_like(x)

    def paint(distance: Tensor, line: Tensor | float) -> None:
        """Lays a part over the others: ink where `distance` < 0, skin where it is deeper than `line`."""
        cover, core = (0.5 - distance).clamp_(0, 1), (0.5 - line - distance).clamp_(0, 1)
        depth = (distance * -0.2 - 0.2 * line).clamp_(0, 1)
        bright = torch.where(painted, 0.78 + 0.26 * depth, 0.97 + 0.03 * depth)
        keep = (1 - cover) * (1 - core)
        rest.mul_(keep)
        inked.mul_(keep).addcmul_(cover, 1 - core)
        skinned.mul_(keep).addcmul_(core, bright)

    paint(body, width)
    for k in [*range(DIGITS - 1, 0, -1), 0]:
        paint(torch.where(hands.present[:, k, None, None], digits[:, k], 1e3), width)
    # The palm closes over the roots of the digits: no line crosses it.
    paint(body + width + 0.8, 0.0)
    flesh = (skin * (1 + 0.06 * light) * skinned[:, None]).clamp(0, 1)
    image = behind * rest[:, None] + ink * inked[:, None] + flesh

    def lay(image: Tensor, distance: Tensor, colour: Tensor) -> Tensor:
        return torch.lerp(image, colour.expand_as(image), (0.5 - distance).clamp(0, 1)[:, None])

    cuff_y = (-half[:, 1] - hands.shade[:, 2, None, None]).expand_as(y)
    cloth = torch.maximum(x.abs() - 7.2, y - cuff_y) * scale
    cloth = torch.where((code["sleeve"] > 0)[:, None, None], cloth, 1e3)
    bands = (code["sleeve"] == 3)[:, None, None] & ((y / 3.4).floor().long() % 2 == 0)
    image = lay(lay(image, cloth, ink), cloth + width, torch.where(bands[:, None], sleeve * 0.35, sleeve))

    hand = torch.where(hands.present[:, :, None, None], digits, 1e3).amin(1)
    wrist = torch.maximum(body, -(y + half[:, 1] + 3.0) * scale)
    mask = torch.minimum(hand, wrist) < 0
    image, mask = _blots(hands, xy, image, mask, behind, ink, width, scale)
    return Rendered(image.clamp(0, 1), mask & (cloth > 0))


def _local_coordinates(hands: Hands, code: dict[str, Tensor]) -> Tensor:
    """float [n, 2, H, W]: every pixel's place in the frame of its hand."""
    axis = torch.arange(SIZE, device=hands.codes.device) - (SIZE - 1) / 2
    py, px = torch.meshgrid(axis, axis, indexing="ij")
    turn = code["direction"] * (math.pi / 2) + hands.angle
    s, c = turn.sin()[:, None, None], turn.cos()[:, None, None]
    # The palm's centre sits behind the picture's, so that palm and fingers together are in the middle.
    back = 5.5 * hands.scale[:, None, None]
    dx, dy = px - hands.centre[:, 0, None, None] + back * s, py - hands.centre[:, 1, None, None] - back * c
    along, across = dx * s - dy * c, dx * c + dy * s
    mirror = torch.where(code["side"] == 1, 1.0, -1.0)[:, None, None]
    return torch.stack([across * mirror, along], 1) / hands.scale[:, None, None, None]


def _capsules(xy: Tensor, hands: Hands) -> Tensor:
    """Signed distance to each digit, px [n, 7, H, W]; merged fingers share the smooth union of both."""
    ends = hands.joints[..., None, None]  # [n, digit, segment, end, xy, 1, 1]
    ax, ay = ends[:, :, :, 0, 0], ends[:, :, :, 0, 1]
    ux, uy = ends[:, :, :, 1, 0] - ax, ends[:, :, :, 1, 1] - ay
    x, y = xy[:, 0, None, None] - ax, xy[:, 1, None, None] - ay
    share = ((x * ux + y * uy) / (ux * ux + uy * uy).clamp(min=1e-6)).clamp_(0, 1)
    r0, r1 = hands.radii[..., 0, None, None], hands.radii[..., 1, None, None]
    distance = torch.hypot(x - ux * share, y - uy * share).sub_(r0 + (r1 - r0) * share)
    digits = distance.amin(2) * hands.scale[:, None, None, None]
    rows = torch.arange(len(hands), device=digits.device)
    first, second = digits[rows, hands.merged], digits[rows, (hands.merged + 1).clamp(max=DIGITS - 1)]
    blend = (0.5 + (second - first) / 8).clamp(0, 1)
    union = torch.lerp(second, first, blend) - 4 * blend * (1 - blend)
    fused = (hands.merged > 0)[:, None, None]
    digits[rows, hands.merged] = torch.where(fused, union, first)
    digits[rows, (hands.merged + 1).clamp(max=DIGITS - 1)] = torch.where(fused, union, second)
    return digits


def _rounded_box(x: Tensor, y: Tensor, half_x: Tensor, half_y: Tensor, radius: float) -> Tensor:
    qx, qy = x.abs() - half_x + radius, y.abs() - half_y + radius
    outside = torch.hypot(qx.clamp(min=0), qy.clamp(min=0))
    return outside + torch.maximum(qx, qy).clamp(max=0) - radius


def _light(hands: Hands) -> Tensor:
    """float [n, 1, H, W] in about -1..1: a slow gradient over the picture."""
    axis = torch.linspace(-1, 1, SIZE, device=hands.codes.device)
    return (hands.shade[:, 0, None, None] * axis + hands.shade[:, 1, None, None] * axis[:, None])[:, None]


def _blots(
    hands: Hands, xy: Tensor, image: Tensor, mask: Tensor, behind: Tensor, ink: Tensor, width: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor]:
    """Holes and blurred places, the two errors that are not made of limbs."""
    if not bool((hands.blot[:, 3] > 0).any()):
        return image, mask
    disc = ((xy - hands.blot[:, :2, None, None]).norm(dim=1) - hands.blot[:, 2, None, None]) * scale
    hole = torch.where((hands.blot[:, 3] == 1)[:, None, None], disc, 1e3)
    for distance, colour in ((hole, ink), (hole + width, behind)):
        image = torch.lerp(image, colour.expand_as(image), (0.5 - distance).clamp(0, 1)[:, None])
    smear = F.avg_pool2d(F.pad(image, (4, 4, 4, 4), mode="replicate"), 9, 1)
    smear = F.avg_pool2d(F.pad(smear, (2, 2, 2, 2), mode="replicate"), 5, 1)
    blur = torch.where((hands.blot[:, 3] == 2)[:, None, None], disc, 1e3)
    image = torch.lerp(image, smear, (0.5 - blur / 2.5).clamp(0, 1)[:, None])
    return image, mask & (hole > 0)
