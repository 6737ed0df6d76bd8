"""What keeping an image's activations costs: its file, and a whole row of images with files written beside them."""

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from badhands.diffusion.scene import Scene
from badhands.diffusion.workers import Workers
from badhands.extraction.renderer import PipelineRenderer, Replay
from badhands.study.activation_file import write_image

ROUNDS = 7
IMAGES = 5


def store(s: Any, say: Callable[..., None], seconds: Callable[[Callable[[], Any]], float]) -> None:
    """Through the extraction's own renderer, workers and writer; `say` takes a row, `seconds` times a call."""
    renderer = PipelineRenderer(s.spec)
    renderer.scene = Scene(s.spec, pipe=s.pipe)
    tokens = s.tokens(300)[0]
    arguments = (s.embeddings[:1], [0], s.post_blocks, s.post_timesteps, [tokens])
    made = renderer.replay(*arguments)[0]
    say("replay, capture and decode of one image", seconds(lambda: renderer.replay(*arguments)), "s")
    size = sum(tensor.nbytes for tensor in made.tensors.values())
    labels = np.ones(len(tokens), np.uint8)

    def write(name: str, replay: Replay) -> None:
        meta = {"prompt": "synthetic", "seed": 0, "grid": [s.grid.h, s.grid.w], "steps": replay.steps}
        write_image(s.scratch / "activations", name, replay.tensors, tokens, labels, labels * 0, meta, replace=True)

    blob = b"\0" * size
    ours, plain = [], []
    for i in range(ROUNDS):  # in turn, so that both meet the same disk
        ours.append(seconds(lambda i=i: write(f"i{i}", made)))
        plain.append(seconds(lambda i=i: _plain(s.scratch / f"plain{i}", blob)))
    ratio = [b / a for a, b in zip(ours, plain, strict=True)]
    say("one image, 48 cells x 300 tokens", size / 1e6, "MB")
    say("its file checked, written and fsynced", size / 1e6 / statistics.median(ours), "MB/s")
    say("plain write and fsync of as many bytes", size / 1e6 / statistics.median(plain), "MB/s")
    say("ratio", statistics.median(ratio), "", f"{min(ratio):.2f} to {max(ratio):.2f}")
    _beside(s, say, renderer, arguments, write)
    if torch.cuda.is_available():
        device = torch.empty(size, dtype=torch.uint8, device="cuda")
        host = torch.empty(size, dtype=torch.uint8, pin_memory=True)
        host.copy_(device)
        copy = [seconds(lambda: host.copy_(device, non_blocking=True)) for _ in range(5)]
        say("device to pinned host memory", size / 1e6 / statistics.median(copy), "MB/s")


def _beside(s: Any, say: Callable[..., None], renderer: Any, arguments: Any, write: Callable[..., None]) -> None:
    """Seconds an image of a row of images: not written, written before the next one begins, written beside it."""

    def replay(_: Any, task: int) -> Replay:
        return renderer.replay(*arguments)[0]

    def replay_and_write(_: Any, task: int) -> None:
        write(f"row{task}", renderer.replay(*arguments)[0])

    def finish(task: int, made: Replay) -> None:
        write(f"row{task}", made)

    ways = {"not written": (replay, None), "written in between": (replay_and_write, None),
            "written beside the next one": (replay, finish)}  # fmt: skip
    for name, (function, after) in ways.items():
        with Workers(lambda spec: renderer, s.spec, 1, torch.get_num_threads()) as workers:
            start = time.perf_counter()
            for _ in workers.map(function, range(IMAGES), after):
                pass
            say(f"a row of {IMAGES} images, {name}", (time.perf_counter() - start) / IMAGES, "s an image")


def _plain(path: Path, blob: bytes) -> None:
    with path.open("wb") as file:
        file.write(blob)
        file.flush()
        os.fsync(file.fileno())
