"""Block names, layouts and the token grid; the real FLUX.1-dev without its weights."""

import numpy as np
import pytest
import torch
from diffusers import FluxTransformer2DModel
from hypothesis import given, settings
from hypothesis import strategies as st

from badhands.cells import choose_timesteps
from badhands.diffusion.blocks import (
    TokenGrid,
    block_names,
    check_blocks,
    find_block,
    image_tokens,
    width,
    with_image_tokens,
)
from badhands.diffusion.families import FAMILIES, BlockList, family_of
from badhands.diffusion.families.published import published_config
from tiny_pipeline import make_pipeline

DEV = published_config("black-forest-labs/FLUX.1-dev", "transformer")
assert DEV is not None


def test_the_real_flux_dev_on_the_meta_device():
    options = {key: value for key, value in DEV.items() if not key.startswith("_")}
    with torch.device("meta"):
        transformer = FluxTransformer2DModel(**options)
    assert sum(p.numel() for p in transformer.parameters()) == 11_901_408_320
    names = block_names(DEV)
    assert len(names) == 57 and names[18:20] == ("double.18", "single.0") and names[-1] == "single.37"
    assert width(DEV) == 3072
    shapes = {}
    for name in names:
        block, family = find_block(transformer, DEV, name)
        block.register_forward_hook(
            lambda _m, _a, output, name=name, family=family: shapes.update(
                {name: tuple(image_tokens(output, family, 4096).shape)}
            )
        )
    with torch.device("meta"), torch.no_grad():
        transformer(
            hidden_states=torch.empty(1, 4096, 64),
            encoder_hidden_states=torch.empty(1, 512, 4096),
            pooled_projections=torch.empty(1, 768),
            timestep=torch.empty(1),
            guidance=torch.empty(1),
            img_ids=torch.empty(4096, 3),
            txt_ids=torch.empty(512, 3),
        )
    assert shapes == dict.fromkeys(names, (1, 4096, 3072))


def test_names():
    config = {"_class_name": "FluxTransformer2DModel", "num_layers": 3, "num_single_layers": 6}
    assert block_names(config) == (*(f"double.{i}" for i in range(3)), *(f"single.{i}" for i in range(6)))
    assert check_blocks(config, ["single.5", "x0", "double.2", "xt", "x0"]) == ("xt", "x0", "double.2", "single.5")
    assert check_blocks(config, "all") == block_names(config)
    with pytest.raises(ValueError, match=r"no block double.3, single.6: it has double.0 to double.2, single.0 to"):
        check_blocks(config, ["double.3", "single.0", "single.6"])
    with pytest.raises(ValueError, match="UNet2DConditionModel has no family: write one beside"):
        family_of({"_class_name": "UNet2DConditionModel"})


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_each_family_names_classes_of_diffusers_and_their_configs(name):
    import inspect

    import diffusers

    options = inspect.signature(getattr(diffusers, name).__init__).parameters
    family = FAMILIES[name]
    assert {rows.depth for rows in (family.double, family.single) if rows is not None} <= set(options)
    assert all(hasattr(diffusers, pipeline) for pipeline in family.pipelines)


@pytest.mark.parametrize("order", ["image", "text_image", "image_text"])
@pytest.mark.parametrize("index", [None, 1])
def test_image_tokens_in_and_out(order, index):
    image, text = torch.randn(2, 5, 3), torch.randn(2, 4, 3)
    stream = {"image": image, "text_image": torch.cat([text, image], 1), "image_text": torch.cat([image, text], 1)}[
        order
    ]
    output = stream if index is None else (text, stream)
    rows = BlockList("blocks", "num_layers", index, order)
    assert torch.equal(image_tokens(output, rows, 5), image)
    changed = with_image_tokens(output, rows, image + 1)
    assert torch.equal(image_tokens(changed, rows, 5), image + 1)
    whole = changed if index is None else changed[1]
    if order != "image":
        assert torch.equal(whole[:, :4] if order == "text_image" else whole[:, 5:], text)
    if index == 1:
        assert torch.equal(changed[0], text)


@given(h=st.integers(1, 9), w=st.integers(1, 9), patch=st.sampled_from([4, 16]), data=st.data())
@settings(max_examples=60, deadline=None)
def test_token_and_pixel_box(h, w, patch, data):
    grid = TokenGrid.of(h * patch, w * patch, patch)
    token = data.draw(st.integers(0, len(grid) - 1))
    x0, y0, x1, y1 = grid.box(token)
    assert (x1 - x0, y1 - y0) == (patch, patch) and 0 <= x0 < x1 <= w * patch and 0 <= y0 < y1 <= h * patch
    assert {grid.token(x, y) for x in (x0, x1 - 1) for y in (y0, y1 - 1)} == {token}


def test_the_box_of_a_token_is_where_its_latent_decodes_to():
    """On a non-square picture: move one token's latent and see where the pixels change most."""
    from badhands.diffusion.preview import unpack

    pipe = make_pipeline()
    grid = TokenGrid.of(48, 80, 4)
    assert (grid.h, grid.w) == (12, 20)
    for token in (0, 19, 20, 137, 239):
        packed = torch.zeros(1, 240, 32)
        packed[0, token] = 1.0
        latent = unpack(pipe, packed, 48, 80)[0].sum(0)  # 2 px of latent a token, 4 px of picture
        rows, columns = np.nonzero(latent.numpy())
        x0, y0, x1, y1 = grid.box(token)
        assert (columns.min() * 2, rows.min() * 2, (columns.max() + 1) * 2, (rows.max() + 1) * 2) == (x0, y0, x1, y1)
        own = pipe._unpack_latents(packed, 48, 80, pipe.vae_scale_factor)
        assert torch.equal(own, unpack(pipe, packed, 48, 80))
        noise = torch.randn(1, 240, 32, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            plain, moved = (pipe.vae.decode(unpack(pipe, n, 48, 80)).sample[0] for n in (noise, noise + 3 * packed))
        change = (moved - plain).abs().sum(0)
        rows, columns = np.nonzero((change > change.max() / 2).numpy())
        assert abs(columns.mean() + 0.5 - (x0 + x1) / 2) <= 4 and abs(rows.mean() + 0.5 - (y0 + y1) / 2) <= 4


@pytest.mark.parametrize("size", [(66, 64), (64, 70), (0, 64), (-4, 64)])
def test_a_size_that_does_not_fit(size):
    with pytest.raises(ValueError, match="positive multiples of 4 px"):
        TokenGrid.of(*size, 4)


def test_outside_the_grid():
    grid = TokenGrid.of(8, 12, 4)
    for call in (lambda: grid.box(6), lambda: grid.box(-1), lambda: grid.token(12, 0), lambda: grid.token(0, 8)):
        with pytest.raises(ValueError, match="outside"):
            call()


def test_timesteps_for_other_schedules():
    study = [20, 19, 18, 17, 15, 12, 8, 3]
    assert choose_timesteps(study, 20, 20) == tuple(study)
    assert choose_timesteps(study, 20, 4) == (4, 3, 2, 1)
    assert choose_timesteps(study, 20, 50) == (50, 48, 45, 43, 38, 30, 20, 8)
    assert choose_timesteps("all", 20, 3) == (3, 2, 1)
    with pytest.raises(ValueError, match=r"\[21\] are not in 1..20"):
        choose_timesteps([21, 3], 20, 20)
