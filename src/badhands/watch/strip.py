"""A film strip: one column a step, one row a block, the predicted clean image above, the finished image at the end."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from badhands.figures.palette import BAD, GOOD, INK, PAPER
from badhands.watch.frame import Frame
from badhands.watch.overlay import colour_bar, enlarged, font, overlay, tint, told
from badhands.watch.seen import Seen

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
    page = _Page.of(seen, list(blocks or seen.blocks), len(frames), title)
    for column, frame in enumerate(frames):
        page.step(column, seen, frame, member)
    stopped = seen.stopped.get((frames[-1].generation, member))
    page.ending(len(frames), seen.final(generation, member), stopped, verdict)
    return page.image


@dataclass(frozen=True)
class _Page:
    """A strip being drawn: the sheet, and where things go on it."""

    image: Image.Image
    draw: ImageDraw.ImageDraw
    blocks: list[str]
    side: tuple[int, int]
    """Of a tile, px."""
    top: int
    """Of the previews, px."""

    @classmethod
    def of(cls, seen: Seen, blocks: list[str], steps: int, title: str) -> "_Page":
        """The sheet with its title and the names of its rows."""
        height, width = seen.size()
        side = (round(TILE * width / max(width, height)), round(TILE * height / max(width, height)))
        top = HEAD + (24 if title else 0)
        across = LEFT + (steps + 1) * (side[0] + GAP) + 70
        image = Image.new("RGB", (across, top + side[1] + 2 * GAP + len(blocks) * (side[1] + FOOT + GAP)), PAPER)
        page = cls(image, ImageDraw.Draw(image), blocks, side, top)
        if title:
            page.draw.text((GAP, 5), title, fill=INK, font=font(14))
        page.draw.text((GAP, top + side[1] // 2 - 16), "predicted\nclean image", fill=INK, font=font(12))
        for row, block in enumerate(blocks):
            page.draw.text((GAP, page.row(row) + side[1] // 2 - 8), block, fill=INK, font=font(13))
        return page

    def row(self, row: int) -> int:
        """Upper edge of a block's tiles."""
        return self.top + self.side[1] + GAP + row * (self.side[1] + FOOT + GAP)

    def column(self, column: int) -> int:
        """Left edge of a step's tiles."""
        return LEFT + column * (self.side[0] + GAP)

    def step(self, column: int, seen: Seen, frame: Frame, member: int) -> None:
        """One column: when it was, the preview, and P(bad) of every block over it."""
        x, side = self.column(column), self.side
        self.draw.text((x, self.top - 37), f"timestep {frame.timestep}", fill=INK, font=font(12))
        when = f"step {frame.step + 1}/{frame.num_steps} · σ {frame.sigma:.2f}"
        self.draw.text((x, self.top - 20), when, fill=INK, font=font(11))
        height, width = seen.size()
        picture = seen.preview(frame, member) or Image.new("RGB", (width, height), "#808080")
        self.image.paste(_tile(picture, side), (x, self.top))
        large, i, grid = enlarged(picture, 2 * max(side)), frame.place(member), seen.grid
        for row, block in enumerate(self.blocks):
            y = self.row(row)
            if block not in frame.score:
                self.draw.text((x + 4, y + 4), "no probe here", fill=INK, font=font(11))
                continue
            tinted = tint(large, frame.p_bad[block][i].reshape(grid), frame.hand[block][i].reshape(grid))
            self.image.paste(_tile(tinted, side), (x, y))
            self.draw.text((x, y + side[1] + 2), told(float(frame.score[block][i])), fill=INK, font=font(12))

    def ending(self, column: int, final: Image.Image | None, stopped: int | None, verdict: str | None) -> None:
        """The last column: the finished image or why there is none, the judge's word, the colour scale."""
        x, side = self.column(column), self.side
        end = f"stopped at t{stopped}" if stopped else "finished image" if final else "not finished"
        self.draw.text((x, self.top - 37), end, fill=INK, font=font(12))
        if final is not None:
            self.image.paste(_tile(final, side), (x, self.top))
        if verdict:
            colour = VERDICTS.get(verdict, INK)
            self.draw.text((x, self.top + side[1] + 6), f"judge: {verdict}", fill=colour, font=font(13))
        bar = colour_bar(min(self.image.height - self.top - GAP, 3 * side[1]), 64)
        self.image.paste(bar, (self.image.width - 66, self.top))


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
