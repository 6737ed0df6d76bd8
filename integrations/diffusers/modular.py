"""A modular FLUX.1 pipeline: no callback and no `_interrupt` in diffusers 0.42, so the watcher's hooks are the way.

    python integrations/diffusers/modular.py outputs/runs/.../probes

A policy ends the call with `AllDropped`, which a modular pipeline passes on like any other exception.
"""

import argparse

import torch
from diffusers import FluxPipeline
from diffusers.modular_pipelines import FluxAutoBlocks

from badhands import Probes, watch

parser = argparse.ArgumentParser()
parser.add_argument("probes", help="the probes/ folder of a run of train.py")
parser.add_argument("--model", default="black-forest-labs/FLUX.1-dev")
parser.add_argument("--prompt", default="two hands playing the piano")
parser.add_argument("--size", type=int, default=1024)
parser.add_argument("--out", default="image.png")
given = parser.parse_args()

probes = Probes.load(given.probes)
steps = next(iter(probes.steps.values()))[2]
parts = FluxPipeline.from_pretrained(given.model, dtype=torch.bfloat16).components
pipe = FluxAutoBlocks().init_pipeline()
pipe.update_components(**{name: part for name, part in parts.items() if name in pipe.components})
pipe.to("cuda" if torch.cuda.is_available() else "cpu")
with watch(pipe, probes, previews=False) as seen:
    image = pipe(
        prompt=given.prompt,
        height=given.size,
        width=given.size,
        num_inference_steps=steps,
        max_sequence_length=512 if given.size > 64 else 24,  # the embedded model's captions are short
        generator=torch.Generator().manual_seed(0),
        output="images",
    )[0]
image.save(given.out)
print(seen.rows()[["step", "block", "score", "p_bad", "tokens"]].to_string(index=False))
