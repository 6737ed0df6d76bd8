# The annotations of diffusers and transformers deny their own documented use, so these checks are off here.
# pyright: reportArgumentType=false, reportCallIssue=false, reportAttributeAccessIssue=false, reportOptionalSubscript=false, reportOperatorIssue=false
"""`python -m badhands.tiny_hands.making.train`: renders hands, trains VAE and transformer, saves a diffusers folder.

The same command goes on where it stopped. Commands that name one `vae.folder` share its VAE, and a corpus if they ask
for the same hands; they may run side by side: the first one makes them, the others wait.
"""

import json
import multiprocessing
from pathlib import Path
from typing import Any

import torch
from diffusers.pipelines.flux.pipeline_flux import FluxPipeline
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import load_file

from badhands.home import command
from badhands.tiny_hands.attributes import every_caption, random_captions
from badhands.tiny_hands.judge import Judge
from badhands.tiny_hands.making.corpus import CorpusSettings, VaeSettings, make_corpus, the_vae
from badhands.tiny_hands.making.flow import FlowSettings, FlowTraining
from badhands.tiny_hands.making.loop import Limits, fit
from badhands.tiny_hands.making.pipeline import assemble, build_transformer, build_vae, preset, save
from badhands.tiny_hands.making.sampling import Text, draw
from badhands.tiny_hands.renderer import to_uint8

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
CHECK_SEED = 1_000_000


class Preparation:
    """Makes VAE and corpus: beside the compiler, in processes of their own, or at once where nothing is compiled."""

    def __init__(self, corpus: CorpusSettings, vae: VaeSettings, device: torch.device) -> None:
        self.arguments = (corpus, vae, device)
        self.processes = []
        if device.type == "cuda":
            # Not forked: a forked process cannot use CUDA. The corpus is rendered while the VAE is trained.
            spawn = multiprocessing.get_context("spawn")
            self.processes = [
                spawn.Process(target=the_vae, args=(vae, str(device)), daemon=True),
                spawn.Process(target=make_corpus, args=(corpus, vae, str(device)), daemon=True),
            ]
            for process in self.processes:
                process.start()

    def finish(self) -> dict[str, torch.Tensor]:
        corpus, vae, device = self.arguments
        for process in self.processes:
            process.join()
            if process.exitcode:
                raise RuntimeError("the VAE or the corpus could not be made; the reason stands above")
        make_corpus(corpus, vae, device)
        return load_file(corpus.file(vae))


class Snapshots:
    """Writes the average of the weights as a pipeline, and counts with the judge what it draws."""

    def __init__(
        self, module: FlowTraining, pipe: FluxPipeline, work: Path, dtype: torch.dtype, check: int, seed: int
    ) -> None:
        self.module, self.pipe, self.work, self.dtype, self.check = module, pipe, work, dtype, check
        self.judge = Judge.load() if check else None
        if self.judge:
            self.judge.net.to(module.device)
        index = {caption: i for i, caption in enumerate(every_caption())}
        self.which = torch.tensor([index[text] for text, _ in random_captions(check, CHECK_SEED)], device=module.device)
        self.codec = pipe.vae.to(module.device)

    def write(self, mark: int) -> None:
        self.save(self.work / "snapshots" / f"{mark / 1000:g}k")

    def save(self, folder: Path) -> None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        self.pipe.transformer = self.module.average
        save(self.pipe, folder, self.dtype)
        line: dict[str, Any] = {"saved": str(folder), "samples": self.module.samples}
        line["seconds"] = round(self.module.elapsed, 1)
        if self.judge:
            line |= self.count(self.judge)
        with (self.work / "snapshots.jsonl").open("a") as file:
            print(json.dumps(line), file=file)
        print(json.dumps(line), flush=True)

    def count(self, judge: Judge) -> dict[str, float]:
        """Shares of `check` images: bad among those decided, and abstentions and missing hands among all."""
        g = torch.Generator().manual_seed(CHECK_SEED)
        parts = [
            draw(self.module.average, self.codec, self.module.text, part, g)
            for part in self.which.split(512 if self.module.device.type == "cuda" else 64)
        ]
        said = [v.verdict for v in judge.judge(to_uint8(torch.cat(parts)).cpu().numpy())]
        bad, good = said.count("bad"), said.count("good")
        shares = {"bad_of_decided": bad / max(1, bad + good)}
        shares |= {word: said.count(word) / len(said) for word in ("abstain", "no_hand")}
        return {name: round(share, 4) for name, share in shares.items()}


@command("tiny_hands")
def main(cfg: DictConfig) -> None:
    options: Any = OmegaConf.to_container(cfg, resolve=True)
    ends = {"stop_at": options["stop_at"]}
    vae_options, flow_options = dict(options["vae"]), dict(options["transformer"])
    vae_limits = Limits(vae_options.pop("samples"), vae_options.pop("minutes"))
    vae = VaeSettings(**vae_options, limits=vae_limits)
    corpus = CorpusSettings(**options["data"], seed=options["seed"])
    limits = Limits(flow_options.pop("samples"), flow_options.pop("minutes"), **ends)
    settings, size = FlowSettings(**flow_options), preset(options["preset"])
    if options["dtype"] not in DTYPES:
        raise ValueError(f"dtype={options['dtype']}: choose one of {', '.join(DTYPES)}")
    work, device = Path(options["work"]), torch.device(options["device"])
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("device=cuda: this machine has no GPU that torch can use; take device=cpu")
    work.mkdir(parents=True, exist_ok=True)
    torch.set_float32_matmul_precision("high")
    # Seen on one H100 with torch 2.11: an illegal memory access in the attention's backward pass at head size 32.
    torch.backends.cuda.enable_cudnn_sdp(False)

    preparation = Preparation(corpus, vae, device)
    torch.manual_seed(options["seed"])
    transformer = build_transformer(size)
    pipe = assemble(build_vae(vae.widths), transformer, seed=0)
    module = FlowTraining(transformer, Text(pipe, device), corpus.hands, settings, device)
    module.compile()
    hands = preparation.finish()
    module.fill(hands["latents"], hands["captions"])
    pipe.vae = the_vae(vae, device)
    snapshots = Snapshots(module, pipe, work, DTYPES[options["dtype"]], options["check"], options["seed"])
    fit(module, limits, work / "training.pt", options["name"], options["snapshots"], snapshots.write)
    snapshots.save(Path(options["out"]))


if __name__ == "__main__":
    main()
