"""python -m badhands.watch: one picture with the probes' verdict at every step; a policy may stop or steer it.

Configuration: conf/watch.yaml; guide: docs/watch.md.
"""

import contextlib
import sys
import webbrowser
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from badhands.home import command

if TYPE_CHECKING:
    from PIL.Image import Image

    from badhands.diffusion.scene import Pair, Scene
    from badhands.probes.artifact import Probes
    from badhands.watch.frame import Frame
    from badhands.watch.policies import Policy
    from badhands.watch.repaint import Canvas, Repair
    from badhands.watch.seen import Seen
    from badhands.watch.serve import Live
    from badhands.watch.settings import PolicyChoice


@command("watch")
def main(cfg: DictConfig) -> None:
    options = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(options, dict)
    folder = Path(HydraConfig.get().runtime.output_dir)
    try:
        run({str(key): value for key, value in options.items()}, folder)
    except KeyboardInterrupt:
        sys.exit("interrupted; what was made so far is in " + str(folder))


def run(options: dict[str, Any], folder: Path) -> None:
    """Do what conf/watch.yaml says, into `folder`.

    Raises:
        ValueError: an option that does not fit, in one sentence.
    """
    with open_page(options["watch"]) as live:  # a taken port is told before anything is loaded
        import torch

        from badhands.diffusion.spec import ModelSpec
        from badhands.watch.settings import PolicyChoice, find_probes, load_probes

        torch.set_num_threads(int(options["threads"]))
        spec = ModelSpec.of(options["model"])
        given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in options["policy"].items()}
        choice = PolicyChoice(**given)
        probes = load_probes(find_probes(spec.name, options["probes"]), spec)
        rate = options["watch"]["bad_rate"]
        probes = probes if rate is None else probes.at_rate(float(rate))
        print(f"P(bad) assumes that {probes.bad_rate:.0%} of hands are bad (watch.bad_rate)", file=sys.stderr)
        policy = choice.build(probes)
        watch_pictures(options, spec, probes, policy, choice, folder, live)


def watch_pictures(
    options: dict[str, Any], spec: Any, probes: "Probes", policy: "Policy | None", choice: "PolicyChoice", folder: Path,
    live: "Live | None",
) -> None:  # fmt: skip
    """Draw the prompt with one seed after the other (policy=best: n at a time) until `images` of them came through."""
    from badhands.diffusion.moments import AllDropped
    from badhands.diffusion.preview import load_tiny_vae
    from badhands.diffusion.scene import Pair, Scene
    from badhands.watch.fresh import find_judge, fresh_pairs
    from badhands.watch.repaint import canvas_of, final_cell
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
    kept, each, rule, blocks = 0, choice.n, choice.repairing(), given["blocks"]
    if rule is not None and blocks:
        blocks = [*blocks, final_cell(probes).block]
    if each > spec.batch_size:
        raise ValueError(f"policy.n={each} seeds compete in one batch of model.batch_size={spec.batch_size}: raise it")
    alone = tries == 1 or (wanted == 1 and policy is None)
    for number in range(tries):
        batch = [Pair(prompt, seed + number * each + i) for i in range(each)]
        title = f"{prompt} · seed {batch[0].seed}" + (f" to {batch[-1].seed}" if each > 1 else "")
        target = folder if alone else folder / f"seed{batch[0].seed}"
        if live is not None:
            live.begin(title)
        watching = watch(
            scene.pipe, probes, policy, blocks=blocks, previews=given["previews"],
            preview_scale=int(given["preview_scale"]), preview_vae=tiny,
            p_hand=float(given["p_hand"]), on_frame=reporter(live),
        )  # fmt: skip
        seen, alive, latents = watching.seen, list[int](), None
        try:
            with watching, contextlib.suppress(AllDropped):
                latents = scene.latents(batch)
                alive = [i for i in range(each) if (0, i) not in seen.stopped]
                kept += keep_pictures(scene.pictures(latents), [batch[i] for i in alive], target, judge)
        finally:
            if seen.frames:
                seen.save(target, members=alive if each > 1 else None, title=title)
                print(f"{target / 'strip.png'}\n{target / 'page.html'}" if each == 1 else target, flush=True)
            if live is not None:
                live.finish(seen)
        tell_stopped(seen, batch, probes)
        if rule is not None and latents is not None:
            repair_picture(scene, probes, canvas_of(scene, probes, batch, seen, latents), rule, target, judge)
        if kept >= wanted:
            return
    raise ValueError(f"{kept} of {wanted} images came through in {tries} tries: raise tries=, or a looser policy.miss")


def keep_pictures(pictures: "Sequence[Image]", pairs: "Sequence[Pair]", target: Path, judge: Any) -> int:
    """Write what came through into `target` and say so; returns how many."""
    target.mkdir(parents=True, exist_ok=True)
    for pair, picture in zip(pairs, pictures, strict=True):
        picture.save(target / ("image.png" if len(pairs) == 1 else f"image_seed{pair.seed}.png"))
        print(f"seed {pair.seed}: finished{judged(judge, picture)}", flush=True)
    return len(pairs)


def judged(judge: Any, picture: "Image") -> str:
    """`, the judge says good`; empty without a judge."""
    return "" if judge is None else f", the judge says {judge.judge(np.array(picture)[None])[0].verdict}"


def tell_stopped(seen: "Seen", batch: "Sequence[Pair]", probes: "Probes") -> None:
    """Which seeds were not finished, by which score; and where no hand was found."""
    from badhands.watch.compatibility import main_block

    for i, pair in enumerate(batch):
        timestep = seen.stopped.get((0, i))
        if timestep is not None:
            frame = next(frame for frame in seen.frames if frame.timestep == timestep)
            block = main_block(probes, [cell.block for cell in frame.cells])
            score = float(frame.score[block][frame.place(i)])
            print(f"seed {pair.seed}: stopped after timestep {timestep}, {block} score {score:+.2f}, "
                  f"{frame.step + 1} evaluations")  # fmt: skip
        elif not seen.hand_found(i):
            print(f"seed {pair.seed}: no hand was found; lower watch.p_hand, or draw something with a hand")


def repair_picture(
    scene: "Scene", probes: "Probes", before: "Canvas", rule: "Repair", target: Path, judge: Any
) -> None:
    """Draw a bad hand again in its place; writes repaired.png beside image.png, which stays."""
    from badhands.watch.repaint import repair

    after, tries = repair(scene, probes, before, rule)
    if not tries[0]:
        print(f"seed {before.pairs[0].seed}: P(bad) is {before.p_bad[0]:.2f}, below policy.p_bad={rule.p_bad:g}: "
              "nothing was drawn again")  # fmt: skip
        return
    picture = scene.pictures(after.latents)[0]
    picture.save(target / "repaired.png")
    print(f"seed {before.pairs[0].seed}: {tries[0]} repairs, score {float(before.score[0]):+.2f} -> "
          f"{float(after.score[0]):+.2f}{judged(judge, picture)}\n{target / 'repaired.png'}", flush=True)  # fmt: skip


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
