"""What a watch leaves in a folder: strip.png, watch.gif, steps/*.png, scores.csv, page.html, image.png, mask.png."""

from collections.abc import Sequence
from pathlib import Path

from badhands.watch.compatibility import main_block
from badhands.watch.overlay import overlay
from badhands.watch.page import write_page
from badhands.watch.seen import Seen
from badhands.watch.strip import animation, film_strip

HOLD_MS, LAST_MS = 500, 2000
"""How long a step and the finished image stand in the animation."""


def save(seen: Seen, folder: Path, members: Sequence[int] | None = None, title: str = "") -> Path:
    """Everything about the last generation; returns `folder`. With several members, each has a folder of its own.

    Raises:
        ValueError: nothing was watched.
    """
    frames = seen.of()
    if not frames:
        raise ValueError("no step was watched, so there is nothing to save: call the pipeline inside the `with` block")
    members = frames[0].members if members is None else tuple(members)
    folder.mkdir(parents=True, exist_ok=True)
    rows = seen.rows()
    rows[rows["generation"] == frames[-1].generation].to_csv(folder / "scores.csv", index=False)
    for member in members:
        save_member(seen, folder if len(members) == 1 else folder / f"member{member}", member, title)
    return folder


def save_member(seen: Seen, folder: Path, member: int, title: str) -> None:
    """The pictures and the page of one batch member."""
    steps = folder / "steps"
    steps.mkdir(parents=True, exist_ok=True)
    film_strip(seen, member=member, title=title).save(folder / "strip.png")
    for frame in seen.of():
        if member in frame.members:
            for block in (cell.block for cell in frame.cells):
                name = f"step{frame.step:03d}_t{frame.timestep:03d}_{block}.png"
                overlay(frame, block, seen.preview(frame, member), seen.grid, member).save(steps / name)
    pictures = animation(seen, main_block(seen.probes, seen.blocks), member=member)
    if pictures:
        durations = [HOLD_MS] * (len(pictures) - 1) + [LAST_MS]
        pictures[0].save(
            folder / "watch.gif", save_all=True, append_images=pictures[1:], duration=durations, loop=0, optimize=False
        )
    final = seen.final(member=member)
    if final is not None:
        final.save(folder / "image.png")
        seen.mask(member).save(folder / "mask.png")
    write_page(seen, folder / "page.html", member=member, title=title)
