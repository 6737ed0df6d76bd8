"""python -m badhands.watch: one picture with the probes' verdict at every step; a policy may stop or steer it.

Configuration: conf/watch.yaml; guide: docs/watch.md.
"""

import contextlib
import os
import sys
import webbrowser
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
import numpy as np
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from badhands import CONF_DIR, OUTPUTS

if TYPE_CHECKING:
    from badhands.probes.artifact import Probes
    from badhands.watch.policies import Policy
    from badhands.watch.seen import Frame, Seen
    from badhands.watch.serve import Live

os.environ.setdefault("BADHANDS_OUTPUTS", str(OUTPUTS))  # conf/watch.yaml puts pictures where the studies are


@hydra.main(config_path=str(CONF_DIR), config_name="watch", version_base="1.3")
def main(cfg: DictConfig) -> None:
    options = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(options, dict)
    folder = Path(HydraConfig.get().runtime.output_dir)
    try:
        run({str(key): value for key, value in options.items()}, folder)
    except ValueError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; what was made so far is in " + str(folder))


def run(options: dict[str, Any], folder: Path) -> None:
    """Do what conf/watch.yaml says, into `folder`.

    Raises:
        ValueError: an option that does not fit, in one sentence.
    """
    with open_page(options["watch"]) as live:  # a taken port is told before anything is loaded
        import torch

        from badhands.diffusion.models import ModelSpec
        from badhands.watch.settings import PolicyChoice, find_probes, load_probes

        torch.set_num_threads(int(options["threads"]))
        spec = ModelSpec.of(options["model"])
        given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in options["policy"].items()}
        choice = PolicyChoice(**given)
        probes = load_probes(find_probes(spec.name, options["probes"]), spec)
        policy = choice.build(probes)
        watch_pictures(options, spec, probes, policy, folder, live)


def watch_pictures(
    options: dict[str, Any], spec: Any, probes: "Probes", policy: "Policy | None", folder: Path, live: "Live | None"
) -> None:
    """Draw the prompt with one seed after the other until `images` of them came through."""
    from badhands.diffusion.preview import load_tiny_vae
    from badhands.diffusion.scene import Pair, Scene
    from badhands.diffusion.taps import AllDropped
    from badhands.watch.fitting import main_block
    from badhands.watch.fresh import find_judge, fresh_pairs
    from badhands.watch.watcher import watch

    given = options["watch"]
    prompt, seed = options["prompt"], int(options["seed"])
    if prompt is None:
        if options["model"]["prompts"] != "tiny_hands":
            raise ValueError('say what to draw: prompt="..."')
        prompt = fresh_pairs("tiny_hands", 1)[0].prompt
    wanted, tries = int(options["images"]), int(options["tries"])
    scene, judge = Scene(spec, [prompt]), find_judge(spec)
    tiny = None if given["preview"] == "full" else load_tiny_vae(scene.pipe, str(given["preview"]))
    kept = 0
    for number in range(tries):
        pair = Pair(prompt, seed + number)
        title = f"{prompt} · seed {pair.seed}"
        target = folder if tries == 1 or (wanted == 1 and policy is None) else folder / f"seed{pair.seed}"
        if live is not None:
            live.begin(title)
        watching = watch(
            scene.pipe, probes, policy, blocks=given["blocks"], previews=given["previews"],
            preview_scale=int(given["preview_scale"]), preview_vae=tiny,
            p_hand=float(given["p_hand"]), on_frame=reporter(live),
        )  # fmt: skip
        seen = watching.seen
        block = main_block(probes, seen.blocks)
        try:
            with watching, contextlib.suppress(AllDropped):
                latents = scene.latents([pair])
                picture = scene.pictures(latents)[0]
                target.mkdir(parents=True, exist_ok=True)
                picture.save(target / "image.png")
                kept += 1
                verdict = judge.judge(np.array(picture)[None])[0].verdict if judge else None
                print(f"seed {pair.seed}: finished" + (f", the judge says {verdict}" if verdict else ""), flush=True)
        finally:
            if seen.frames:
                seen.save(target, title=title)
                print(f"{target / 'strip.png'}\n{target / 'page.html'}", flush=True)
            if live is not None:
                live.finish(seen)
        if (0, 0) in seen.stopped:
            last = seen.frames[-1]
            print(f"seed {pair.seed}: stopped after timestep {last.timestep}, {block} score "
                  f"{float(last.score[block][0]):+.2f}, {seen.evaluations} evaluations")  # fmt: skip
        elif not seen.hand_found():
            print(f"seed {pair.seed}: no hand was found; lower watch.p_hand, or draw something with a hand")
        if kept == wanted:
            return
    raise ValueError(f"{kept} of {wanted} images came through in {tries} tries: raise tries=, or a looser policy.miss")


def reporter(live: "Live | None") -> Any:
    """What is called after every watched step: a progress line, and the page."""

    def on_frame(seen: "Seen", frame: "Frame") -> None:
        from badhands.watch.overlay import told

        blocks: Sequence[str] = [cell.block for cell in frame.cells]
        scores = "  ".join(f"{block} {told(float(frame.score[block][0])).removeprefix('score ')}" for block in blocks)
        line = f"step {frame.step + 1:>2}/{frame.num_steps}  t{frame.timestep:<3} σ {frame.sigma:.3f}  {scores}"
        print(line, file=sys.stderr, flush=True)
        if live is not None:
            live.on_frame(seen, frame)

    return on_frame


@contextlib.contextmanager
def open_page(given: dict[str, Any]) -> Iterator["Live | None"]:
    """The live page with watch.serve=true; it stays until Ctrl-C unless watch.linger=false."""
    if not given["serve"]:
        yield None
        return
    from badhands.watch.serve import Live

    with Live(int(given["port"])) as live:
        print(f"Watch at {live.address}", flush=True)
        if given["browser"]:
            webbrowser.open(live.address)
        yield live
        if given["linger"]:
            print("The page stays until Ctrl-C.", flush=True)
            with contextlib.suppress(KeyboardInterrupt):
                live.wait()


if __name__ == "__main__":
    main()
