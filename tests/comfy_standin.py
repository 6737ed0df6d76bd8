"""ComfyUI's interface as a node pack meets it, over a small diffusers FLUX: written from its documented behaviour.

What is kept to the letter: MODEL is a patcher with `clone`, `set_model_patch_replace`, `add_wrapper_with_key` and
`model_options`; a block replacement is called as `fn(args, {"original_block": ...})` with the keyword names of
FLUX; a double block returns `{img, txt}`, a single block `{img}` with text tokens first; wrappers get an executor;
`transformer_options` carries `sigmas`, `sample_sigmas`, `cond_or_uncond` (here uncond first, as one batch).
"""

import sys
import types
from copy import copy

import torch
from einops import rearrange


class Executor:
    """`executor(*args)` calls the next wrapper, the last one the function itself."""

    def __init__(self, function, wrappers):
        self.function, self.wrappers = function, list(wrappers)

    def __call__(self, *args, **kwargs):
        if not self.wrappers:
            return self.function(*args, **kwargs)
        return self.wrappers[0](Executor(self.function, self.wrappers[1:]), *args, **kwargs)


class Patcher:
    """A MODEL."""

    def __init__(self, flux, sigmas):
        self.flux, self.sigmas = flux, sigmas
        self.model_options = {"transformer_options": {}}
        self.wrappers = {}

    def clone(self):
        new = copy(self)
        options = self.model_options["transformer_options"]
        replaced = {name: dict(of) for name, of in options.get("patches_replace", {}).items()}
        new.model_options = {"transformer_options": {**options, "patches_replace": replaced}}
        new.wrappers = {kind: {key: list(of) for key, of in by.items()} for kind, by in self.wrappers.items()}
        return new

    def set_model_patch_replace(self, patch, name, block_name, number, transformer_index=None):
        to = self.model_options["transformer_options"].setdefault("patches_replace", {}).setdefault(name, {})
        to[(block_name, number) if transformer_index is None else (block_name, number, transformer_index)] = patch

    def add_wrapper_with_key(self, wrapper_type, key, wrapper):
        self.wrappers.setdefault(wrapper_type, {}).setdefault(key, []).append(wrapper)

    def wrapped(self, kind, function):
        return Executor(function, [w for of in self.wrappers.get(kind, {}).values() for w in of])


class Flux:
    """The diffusers transformer, called block by block as ComfyUI's FLUX calls its own."""

    def __init__(self, transformer):
        self.t = transformer
        self.evaluations = 0

    def __call__(self, x, timestep, context, y=None, guidance=None, transformer_options=None):
        self.evaluations += 1
        options = transformer_options or {}
        t, (_, _, height, width) = self.t, x.shape
        h, w = height // 2, width // 2
        img = t.x_embedder(rearrange(x, "b c (h p) (w q) -> b (h w) (c p q)", p=2, q=2))
        vec = t.time_text_embed(timestep * 1000, guidance * 1000, y)
        txt = t.context_embedder(context)
        ids = torch.zeros(txt.shape[1] + h * w, 3)
        ids[txt.shape[1] :, 1:] = torch.cartesian_prod(torch.arange(h), torch.arange(w)).float()
        pe = t.pos_embed(ids)
        replace = options.get("patches_replace", {}).get("dit", {})
        for i, block in enumerate(t.transformer_blocks):

            def double(args, block=block):
                txt, img = block(hidden_states=args["img"], encoder_hidden_states=args["txt"], temb=args["vec"],
                                 image_rotary_emb=args["pe"])  # fmt: skip
                return {"img": img, "txt": txt}

            args = {"img": img, "txt": txt, "vec": vec, "pe": pe, "attn_mask": None, "transformer_options": options}
            fn = replace.get(("double_block", i))
            out = fn(args, {"original_block": double}) if fn else double(args)
            img, txt = out["img"], out["txt"]
        n = txt.shape[1]
        img = torch.cat((txt, img), 1)
        for i, block in enumerate(t.single_transformer_blocks):

            def single(args, block=block):
                txt, img = block(hidden_states=args["img"][:, n:], encoder_hidden_states=args["img"][:, :n],
                                 temb=args["vec"], image_rotary_emb=args["pe"])  # fmt: skip
                return {"img": torch.cat((txt, img), 1)}

            args = {"img": img, "vec": vec, "pe": pe, "attn_mask": None, "transformer_options": options}
            fn = replace.get(("single_block", i))
            img = (fn(args, {"original_block": single}) if fn else single(args))["img"]
        out = t.proj_out(t.norm_out(img[:, n:], vec))
        return rearrange(out, "b (h w) (c p q) -> b c (h p) (w q)", h=h, w=w, p=2, q=2)


@torch.no_grad()
def common_ksampler(model, seed, steps, cfg, sampler_name, scheduler, positive, negative, latent, denoise=1.0):
    """Euler over the model's schedule; with cfg other than 1 both conditions go in one batch, uncond first."""
    sigmas = model.sigmas(steps)

    def sample(noise, latent_image):
        x = noise
        for k in range(steps):
            conds = [positive] if cfg == 1.0 else [negative, positive]
            chunks = [0] if cfg == 1.0 else [1, 0]
            options = {**model.model_options["transformer_options"], "sigmas": sigmas[k].expand(len(x)),
                       "sample_sigmas": sigmas, "cond_or_uncond": chunks}  # fmt: skip
            call = model.wrapped("diffusion_model", model.flux)
            count = len(conds) * len(x)
            joined = {key: torch.cat([c[0][1][key].expand(len(x), *c[0][1][key].shape[1:]) for c in conds])
                      for key in ("pooled_output", "guidance")}  # fmt: skip
            context = torch.cat([c[0][0].expand(len(x), *c[0][0].shape[1:]) for c in conds])
            v = call(torch.cat([x] * len(conds)), sigmas[k].expand(count), context, joined["pooled_output"],
                     joined["guidance"], transformer_options=options)  # fmt: skip
            if cfg != 1.0:
                uncond, cond = v.chunk(2)
                v = uncond + cfg * (cond - uncond)
            x = x + (sigmas[k + 1] - sigmas[k]) * v
        return x

    noise = torch.randn(latent["samples"].shape, generator=torch.Generator().manual_seed(seed))
    return ({**latent, "samples": model.wrapped("outer_sample", sample)(noise, latent["samples"])},)


def install(monkeypatch) -> None:
    """`import nodes`, `import comfy.samplers`: the modules of ComfyUI that the pack imports while it works."""
    nodes = types.ModuleType("nodes")
    nodes.common_ksampler = common_ksampler
    comfy, samplers = types.ModuleType("comfy"), types.ModuleType("comfy.samplers")
    samplers.KSampler = type("KSampler", (), {"SAMPLERS": ["euler"], "SCHEDULERS": ["simple"]})
    comfy.samplers = samplers
    for name, module in (("nodes", nodes), ("comfy", comfy), ("comfy.samplers", samplers)):
        monkeypatch.setitem(sys.modules, name, module)
