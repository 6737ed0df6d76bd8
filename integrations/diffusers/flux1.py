"""FLUX.1: stop a call whose hand goes wrong and take the next seed, through diffusers' own callback interface.

python integrations/diffusers/flux1.py outputs/runs/.../probes
python integrations/diffusers/flux1.py outputs/runs/.../probes --model src/badhands/tiny_hands/checkpoints/... --size 64
"""

import argparse

import torch
from diffusers import FluxPipeline

from badhands import Abort, BadHandCallback, Probes
from badhands.watch.compatibility import early_block, early_timesteps

parser = argparse.ArgumentParser()
parser.add_argument("probes", help="the probes/ folder of a run of train.py")
parser.add_argument("--model", default="black-forest-labs/FLUX.1-dev")
parser.add_argument("--prompt", default="two hands playing the piano")
parser.add_argument("--size", type=int, default=1024)
parser.add_argument("--miss", type=float, default=0.05, help="share of good images that may be stopped")
parser.add_argument("--tries", type=int, default=10)
parser.add_argument("--out", default="image.png")
given = parser.parse_args()

probes = Probes.load(given.probes)
steps = next(iter(probes.steps.values()))[2]
cell = next(c for c in probes.cells if c.block == early_block(probes) and c.timestep == early_timesteps(probes)[-1])
policy = Abort.of(probes, [cell], given.miss)

pipe = FluxPipeline.from_pretrained(given.model, dtype=torch.bfloat16)
pipe.to("cuda" if torch.cuda.is_available() else "cpu")
with BadHandCallback(probes, policy, previews=False).on(pipe) as callback:
    for seed in range(given.tries):
        image = pipe(
            given.prompt,
            height=given.size,
            width=given.size,
            num_inference_steps=steps,
            max_sequence_length=512 if given.size > 64 else 24,  # the embedded model's captions are short
            generator=torch.Generator().manual_seed(seed),
            callback_on_step_end=callback,
        ).images[0]
        if not callback.interrupted:
            image.save(given.out)
            break
        print(f"seed {seed}: stopped at {cell}")
assert callback.seen is not None
print(f"{given.out}: seed {seed}, {callback.seen.evaluations} transformer evaluations of {steps} a whole image")
