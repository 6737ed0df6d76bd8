"""A film strip: one column a step, one row a block, the predicted clean image above, the finished image at the end."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from badhands.figures.palette import BAD, GOOD, INK, PAPER
from badhands.watch.overlay import colour_bar, enlarged, font, overlay, tint, told
from badhands.watch.watcher import Frame, Seen

TILE = 148
"""Side of a tile, px (the longer side of the picture)."""
MOST = 10
"""Columns of steps; of more, evenly chosen ones are drawn."""
GAP, HEAD, LEFT, FOOT = 6, 40, 86, 20
VERDICTS = {"good": GOOD, "bad": BAD}


def shown(frames: Sequence[Frame], most: int = MOST) -> list[Frame]:
    """At most `most` frames, the first and the last among them."""
    if len(frames) <= most:
        return list(frames)
    return [frames[round(i * (len(frames) - 1) / (most - 1))] for i in range(most)]


def film_strip(
    seen: Seen,
    blocks: Sequence[str] | None = None,
    *,
    member: int = 0,
    generation: int = -1,
    title: str = "",
    verdict: str | None = None,
) -> Image.Image:
    """The strip of one image.

    Args:
        blocks: rows; None is all that were watched.
        title: written above, e.g. prompt and seed.
        verdict: of the finished image (`good`, `bad`, ...), written under it.

    Raises:
        ValueError: nothing was watched.
    """
    frames = shown([frame for frame in seen.of(generation) if member in frame.members])
    if not frames:
        raise ValueError("no step was watched, so there is no strip: was the pipeline called inside the `with` block?")
    blocks = list(blocks or seen.blocks)
    final = seen.final(generation, member)
    height, width = seen.size()
    side = (round(TILE * width / max(width, height)), round(TILE * height / max(width, height)))
    top = HEAD + (24 if title else 0)
    row = side[1] + FOOT + GAP
    columns = len(frames) + 1
    page = Image.new(
        "RGB", (LEFT + columns * (side[0] + GAP) + 70, top + side[1] + GAP + len(blocks) * row + GAP), PAPER
    )
    draw = ImageDraw.Draw(page)
    if title:
        draw.text((GAP, 5), title, fill=INK, font=font(14))
    draw.text((GAP, top + side[1] // 2 - 16), "predicted\nclean image", fill=INK, font=font(12))
    for r, block in enumerate(blocks):
        draw.text((GAP, top + side[1] + GAP + r * row + side[1] // 2 - 8), block, fill=INK, font=font(13))
    for c, frame in enumerate(frames):
        x = LEFT + c * (side[0] + GAP)
        draw.text((x, top - 37), f"timestep {frame.timestep}", fill=INK, font=font(12))
        draw.text(
            (x, top - 20), f"step {frame.step + 1}/{frame.num_steps} · σ {frame.sigma:.2f}", fill=INK, font=font(11)
        )
        picture = seen.preview(frame, member) or Image.new("RGB", (width, height), "#808080")
        page.paste(_tile(picture, side), (x, top))
        for r, block in enumerate(blocks):
            y = top + side[1] + GAP + r * row
            if block not in frame.score:
                draw.text((x + 4, y + 4), "no probe here", fill=INK, font=font(11))
                continue
            i = frame.place(member)
            grid = seen.grid
            large = enlarged(picture, 2 * max(side))
            tinted = tint(large, frame.p_bad[block][i].reshape(grid), frame.hand[block][i].reshape(grid))
            page.paste(_tile(tinted, side), (x, y))
            draw.text((x, y + side[1] + 2), told(float(frame.score[block][i])), fill=INK, font=font(12))
    x = LEFT + len(frames) * (side[0] + GAP)
    stopped = seen.stopped.get((frames[-1].generation, member))
    end = f"stopped at t{stopped}" if stopped else "finished image" if final else "not finished"
    draw.text((x, top - 37), end, fill=INK, font=font(12))
    if final is not None:
        page.paste(_tile(final, side), (x, top))
    if verdict:
        draw.text((x, top + side[1] + 6), f"judge: {verdict}", fill=VERDICTS.get(verdict, INK), font=font(13))
    page.paste(colour_bar(min(page.height - top - GAP, 3 * side[1]), 64), (page.width - 66, top))
    return page


def _tile(picture: Image.Image, side: tuple[int, int]) -> Image.Image:
    return picture.convert("RGB").resize(side, Image.Resampling.LANCZOS)


def animation(seen: Seen, block: str, *, member: int = 0, generation: int = -1) -> list[Image.Image]:
    """Overlays of one block, step after step, then the finished image; all of one size."""
    frames = [f for f in seen.of(generation) if member in f.members and block in f.score]
    pictures = [overlay(frame, block, seen.preview(frame, member), seen.grid, member) for frame in frames]
    final = seen.final(generation, member)
    if final is not None and pictures:
        last = Image.new("RGB", pictures[0].size, PAPER)
        large = enlarged(final, 384)
        last.paste(large, (0, last.height - large.height))
        ImageDraw.Draw(last).text((4, 3), "finished image", fill=INK, font=font(15))
        pictures.append(last)
    return pictures


def contact(strips: Sequence[Image.Image]) -> Image.Image:
    """Strips one below the other."""
    page = Image.new("RGB", (max(s.width for s in strips), sum(s.height for s in strips)), PAPER)
    for strip, y in zip(strips, np.cumsum([0, *(s.height for s in strips)]), strict=False):
        page.paste(strip, (0, int(y)))
    return page
