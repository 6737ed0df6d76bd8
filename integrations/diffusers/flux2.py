"""FLUX.2 klein (base): the verdict at every step through diffusers' own callback interface.

    python integrations/diffusers/flux2.py outputs/runs/.../probes      # probes trained with model=flux2_klein_base

The distilled models make an image in four steps: there is little left to stop.
"""

import argparse

import torch
from diffusers import Flux2KleinPipeline

from badhands import BadHandCallback, Probes

parser = argparse.ArgumentParser()
parser.add_argument("probes", help="the probes/ folder of a run of train.py on this model")
parser.add_argument("--model", default="black-forest-labs/FLUX.2-klein-base-4B")
parser.add_argument("--prompt", default="two hands playing the piano")
parser.add_argument("--size", type=int, default=1024)
parser.add_argument(
    "--guidance", type=float, default=4.0, help="above 1: two calls a step, the conditional one is read"
)
parser.add_argument("--length", type=int, default=512, help="tokens of text")
parser.add_argument("--out", default="image.png")
given = parser.parse_args()

probes = Probes.load(given.probes)
steps = next(iter(probes.steps.values()))[2]
pipe = Flux2KleinPipeline.from_pretrained(given.model, dtype=torch.bfloat16)
pipe.to("cuda" if torch.cuda.is_available() else "cpu")
with BadHandCallback(probes, previews=False).on(pipe) as callback:
    image = pipe(
        prompt=given.prompt,
        height=given.size,
        width=given.size,
        num_inference_steps=steps,
        guidance_scale=given.guidance,
        max_sequence_length=given.length,
        generator=torch.Generator().manual_seed(0),
        callback_on_step_end=callback,
    ).images[0]
image.save(given.out)
assert callback.seen is not None
print(callback.seen.rows()[["step", "block", "score", "p_bad", "tokens"]].to_string(index=False))
