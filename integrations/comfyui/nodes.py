"""The nodes: load probes, watch, show the verdict, stop and take the next seed, keep the best of N, recalibrate."""

import json
from pathlib import Path
from typing import Any

import torch

from badhands import Cell
from badhands.probes.artifact import Probes
from badhands.probes.recalibrate import recalibrate

from .pictures import bad_mask, heatmap, with_heatmap
from .recorder import Reading, Recorder, Stopped, best_block, watched_blocks

CATEGORY = "badhands"
SEED = ("INT", {"default": 0, "min": 0, "max": 0xFFFFFFFFFFFFFFFF, "control_after_generate": True})


class LoadProbes:
    """A probes folder (probes.safetensors, card.json): of a run of badhands, or downloaded from the Hub."""

    CATEGORY, FUNCTION, RETURN_TYPES, RETURN_NAMES = CATEGORY, "load", ("BADHANDS_PROBES",), ("probes",)

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        return {"required": {"folder": ("STRING", {"default": "outputs/runs/.../probes"})}}

    @classmethod
    def IS_CHANGED(cls, folder: str) -> float:
        path = Path(folder).expanduser() / "probes.safetensors"
        return path.stat().st_mtime if path.is_file() else float("nan")

    def load(self, folder: str) -> tuple:
        return (Probes.load(Path(folder).expanduser()),)


class Watch:
    """A MODEL whose blocks are read while it samples. The image is the one without it."""

    CATEGORY, FUNCTION = CATEGORY, "watch"
    RETURN_TYPES, RETURN_NAMES = ("MODEL", "BADHANDS_WATCH"), ("model", "watch")

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        return {
            "required": {
                "model": ("MODEL",),
                "probes": ("BADHANDS_PROBES",),
                "p_hand": ("FLOAT", {"default": 0.5, "min": 0.01, "max": 0.99, "step": 0.01}),
            }
        }

    def watch(self, model: Any, probes: Probes, p_hand: float) -> tuple:
        recorder = Recorder(probes, watched_blocks(probes), p_hand)
        return recorder.patch(model), recorder


class Verdict:
    """Score, heatmap and mask of the bad hand: of the last watched step, or of all of them as a batch."""

    CATEGORY, FUNCTION = CATEGORY, "show"
    RETURN_TYPES = ("FLOAT", "IMAGE", "MASK", "STRING")
    RETURN_NAMES = ("score", "heatmap", "bad_hand", "told")

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        return {
            "required": {
                "watch": ("BADHANDS_WATCH",),
                "samples": ("LATENT", {"tooltip": "What the watched model sampled: this node waits for it."}),
                "steps": (["last", "all"],),
                "block": ("STRING", {"default": "", "tooltip": "e.g. single.8; empty: the best of the study"}),
                "threshold": ("FLOAT", {"default": 0.5, "min": 0.0, "max": 1.0, "step": 0.01}),
            },
            "optional": {"image": ("IMAGE", {"tooltip": "The decoded picture, to lay the heatmap over."})},
        }

    def show(
        self, watch: Recorder, samples: dict, steps: str, block: str, threshold: float, image: Any = None
    ) -> tuple:
        readings = watch.of_block(block or best_block(watch.probes))
        shown = readings if steps == "all" else readings[-1:]
        height, width = (8 * side for side in samples["samples"].shape[-2:])
        if image is not None:
            height, width = image.shape[1:3]
            heat = torch.cat([with_heatmap(image, reading) for reading in shown])
        else:
            heat = torch.cat([heatmap(reading, height, width) for reading in shown])
        mask = torch.cat([bad_mask(reading, height, width, threshold) for reading in shown])
        told = "\n".join(
            f"step {r.step + 1}, sigma {r.sigma:.3f}, {r.cell.block}: "
            + ", ".join("no hand found" if torch.isnan(s) else f"{s:+.3g}" for s in r.score)
            for r in readings
        )
        return float(shown[-1].score.nanmean()), heat, mask, told


def _sampler_inputs() -> dict:
    from comfy.samplers import KSampler

    return {
        "model": ("MODEL",),
        "probes": ("BADHANDS_PROBES",),
        "seed": SEED,
        "steps": ("INT", {"default": 20, "min": 1, "max": 10000}),
        "cfg": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 100.0, "step": 0.1, "round": 0.01}),
        "sampler_name": (KSampler.SAMPLERS,),
        "scheduler": (KSampler.SCHEDULERS,),
        "positive": ("CONDITIONING",),
        "negative": ("CONDITIONING",),
        "latent_image": ("LATENT",),
        "block": ("STRING", {"default": "", "tooltip": "e.g. single.8; empty: the best of the study"}),
        "decide_at": ("FLOAT", {"default": 0.3, "min": 0.01, "max": 1.0, "step": 0.01,
                                "tooltip": "Share of the steps after which it is decided."}),
    }  # fmt: skip


class _Sampler:
    CATEGORY, FUNCTION = CATEGORY, "sample"
    RETURN_TYPES = ("LATENT", "INT", "FLOAT", "STRING")
    RETURN_NAMES = ("samples", "seed", "score", "told")

    def run(self, model: Any, recorder: Recorder, seed: int, latent_image: dict, rest: dict) -> dict | None:
        """One whole sampling, as ComfyUI's own KSampler does it; None where the recorder stopped it."""
        from nodes import common_ksampler

        try:
            return common_ksampler(
                model, seed, rest["steps"], rest["cfg"], rest["sampler_name"], rest["scheduler"],
                rest["positive"], rest["negative"], latent_image,
            )[0]  # fmt: skip
        except Stopped:
            return None


class StopAndRetry(_Sampler):
    """Samples; where the hand goes wrong early, stops and takes the next seed. A batch stops when all of it is bad."""

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        tries = ("INT", {"default": 10, "min": 1, "max": 1000})
        miss = ([0.05, 0.01, 0.02, 0.1, 0.2], {"tooltip": "Share of good images that may be stopped."})
        return {"required": {**_sampler_inputs(), "tries": tries, "miss": miss}}

    def sample(self, model: Any, probes: Probes, seed: int, latent_image: dict, block: str, decide_at: float,
               tries: int, miss: float, **rest: Any) -> tuple:  # fmt: skip
        block = block or best_block(probes)
        last = _last_step(decide_at, rest["steps"])

        def bad(reading: Reading) -> bool:
            low = probes.thresholds.get(reading.cell, {}).get(float(miss))
            return low is not None and reading.step <= last and bool((reading.score < low).all())  # nan is not below

        _need_thresholds(probes, block, float(miss))
        recorder = Recorder(probes, (block,), verdict=bad)
        patched, told = recorder.patch(model), []
        for attempt in range(tries):
            now = (seed + attempt) % (SEED[1]["max"] + 1)
            if attempt == tries - 1:
                recorder.verdict = None  # the last one is drawn to its end, so that there is something to show
            samples = self.run(patched, recorder, now, latent_image, rest)
            told.append(
                f"seed {now}: {'stopped' if samples is None else 'finished'}, score {_score(recorder, block):+.3g}"
            )
            if samples is not None:
                return samples, now, _score(recorder, block), "\n".join(told)
        raise AssertionError("the last attempt is never stopped")


class BestOfN(_Sampler):
    """Draws the first steps of N seeds, keeps the one with the best score, and draws only that one to its end."""

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        return {"required": {**_sampler_inputs(), "n": ("INT", {"default": 4, "min": 2, "max": 1000})}}

    def sample(self, model: Any, probes: Probes, seed: int, latent_image: dict, block: str, decide_at: float, n: int,
               **rest: Any) -> tuple:  # fmt: skip
        block = block or best_block(probes)
        last = _last_step(decide_at, rest["steps"])
        known = {k for k in range(last + 1)}
        recorder = Recorder(probes, (block,), verdict=lambda reading: reading.step >= last)
        patched, scores = recorder.patch(model), {}
        for k in range(n):
            now = (seed + k) % (SEED[1]["max"] + 1)
            self.run(patched, recorder, now, latent_image, rest)
            read = [r for r in recorder.of_block(block) if r.step in known] or recorder.of_block(block)[:1]
            scores[now] = float(read[-1].score.nanmean())
        best = max(scores, key=lambda now: scores[now] if scores[now] == scores[now] else float("-inf"))
        recorder.verdict = None
        samples = self.run(patched, recorder, best, latent_image, rest)
        told = "\n".join(
            f"seed {now}: score {score:+.3g}{'  <- kept' if now == best else ''}" for now, score in scores.items()
        )
        return samples, best, scores[best], told


class Label:
    """Writes down what you say of a watched image, for `Recalibrate`."""

    CATEGORY, FUNCTION, OUTPUT_NODE, RETURN_TYPES = CATEGORY, "label", True, ("INT",)

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        return {
            "required": {
                "watch": ("BADHANDS_WATCH",),
                "samples": ("LATENT",),
                "hand": (["good", "bad"],),
                "file": ("STRING", {"default": "badhands_labels.jsonl"}),
            }
        }

    def label(self, watch: Recorder, samples: dict, hand: str, file: str) -> tuple:
        path = Path(file).expanduser()
        batch = samples["samples"].shape[0]
        lines = [
            {"is_good": hand == "good",
             watch.probes.image_head: {str(r.cell): float(r.score[b]) for r in watch.readings},
             "good_tokens": {str(r.cell): float(r.token_score[b]) for r in watch.readings}}
            for b in range(batch)
        ]  # fmt: skip
        with path.open("a") as stream:
            stream.writelines(json.dumps(line) + "\n" for line in lines)
        return (len(path.read_text().splitlines()),)


class Recalibrate:
    """Probes moved to this model's kernels and precision, by the samples that `Label` wrote down."""

    CATEGORY, FUNCTION, RETURN_TYPES, RETURN_NAMES = CATEGORY, "fit", ("BADHANDS_PROBES",), ("probes",)

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        return {"required": {"probes": ("BADHANDS_PROBES",), "file": ("STRING", {"default": "badhands_labels.jsonl"})}}

    @classmethod
    def IS_CHANGED(cls, probes: Any, file: str) -> float:
        path = Path(file).expanduser()
        return path.stat().st_mtime if path.is_file() else float("nan")

    def fit(self, probes: Probes, file: str) -> tuple:
        path = Path(file).expanduser()
        if not path.is_file():
            raise ValueError(f"there are no labels in {path}: label images of the watched model first")
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        head = probes.image_head
        kinds = {head: head} if head == "good" else {head: head, "good": "good_tokens"}
        cells = [cell for cell in rows[0][head] if all(cell in row[head] for row in rows)]
        scores = {to: {Cell.parse(c): [row[name][c] for row in rows] for c in cells} for to, name in kinds.items()}
        return (recalibrate(probes, scores, [row["is_good"] for row in rows]),)


def _last_step(share: float, steps: int) -> int:
    return max(0, round(share * steps) - 1)


def _score(recorder: Recorder, block: str) -> float:
    return float(recorder.of_block(block)[-1].score.nanmean())


def _need_thresholds(probes: Probes, block: str, miss: float) -> None:
    if not any(cell.block == block and miss in of for cell, of in probes.thresholds.items()):
        raise ValueError(f"these probes have no threshold for miss={miss} in {block}: choose another block or miss")


NODE_CLASS_MAPPINGS = {
    "BadHandsLoadProbes": LoadProbes,
    "BadHandsWatch": Watch,
    "BadHandsVerdict": Verdict,
    "BadHandsStopAndRetry": StopAndRetry,
    "BadHandsBestOfN": BestOfN,
    "BadHandsLabel": Label,
    "BadHandsRecalibrate": Recalibrate,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "BadHandsLoadProbes": "Bad hands: load probes",
    "BadHandsWatch": "Bad hands: watch a model",
    "BadHandsVerdict": "Bad hands: verdict",
    "BadHandsStopAndRetry": "Bad hands: sample, stop, next seed",
    "BadHandsBestOfN": "Bad hands: sample, best of N",
    "BadHandsLabel": "Bad hands: label this image",
    "BadHandsRecalibrate": "Bad hands: recalibrate",
}
