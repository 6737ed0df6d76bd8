"""The recipe: equivariance, Muon, the schedule, snapshots, and that an interrupted training ends as an unbroken one."""

from itertools import product

import pytest
import torch
from torch.nn import functional as F

from badhands.tiny_hands.anatomy import sample_hands
from badhands.tiny_hands.attributes import random_captions
from badhands.tiny_hands.making import autoencoder, loop
from badhands.tiny_hands.making.autoencoder import AutoencoderTraining, collages, normalise, render_pool, view
from badhands.tiny_hands.making.corpus import CorpusSettings, VaeSettings, make_corpus, the_vae
from badhands.tiny_hands.making.flow import FlowSettings, FlowTraining, is_inner_matrix, rate
from badhands.tiny_hands.making.loop import Limits, fit
from badhands.tiny_hands.making.muon import Muon, orthogonalised
from badhands.tiny_hands.making.pipeline import PRESETS, Preset, assemble, build_transformer, build_vae, preset
from badhands.tiny_hands.making.sampling import Text, caption_index, draw

SMALL = (8, 16)
CPU = torch.device("cpu")


@pytest.mark.parametrize(("which", "side"), [(0, 64), (1, 64), (2, 64), (3, 32), (4, 48)])
def test_a_view_of_the_pooled_picture_is_the_pooled_view(which, side):
    """Pooling is a codec that is equivariant by itself: a view must commute with it, and a wrong turn must not."""
    images = F.avg_pool2d(torch.randn(2, 3, 72, 72, generator=torch.Generator().manual_seed(0)), 9, 1)
    one, two = F.avg_pool2d(view(images, which), 2), view(F.avg_pool2d(images, 2), which)
    assert view(images, which).shape == (2, 3, side, side) and one.shape == two.shape
    inside = (..., slice(3, -3), slice(3, -3))
    assert (one - two)[inside].abs().max() < (1e-5 if which < 3 else 0.05)
    assert (one - two.flip(3))[inside].abs().max() > 0.2


def test_turns_are_undone_by_the_other_turns():
    x = torch.arange(2 * 3 * 8 * 8.0).view(2, 3, 8, 8)
    assert torch.equal(view(view(x, 0), 2), x) and torch.equal(view(view(x, 1), 1), x)
    assert torch.allclose(view(torch.full((1, 1, 16, 16), 3.0), 3), torch.tensor(3.0))


def test_the_codec_is_trained_on_turned_and_shrunken_latents(monkeypatch):
    torch.manual_seed(0)
    renders, _ = render_pool(8, 0, CPU)
    module = AutoencoderTraining(build_vae(SMALL), renders, batch_size=4, lr=1e-3)
    decode, sizes = module.vae.decode, []
    monkeypatch.setattr(module.vae, "decode", lambda z: (sizes.append(z.shape[-1]), decode(z))[1])
    for share in (1.0, 0.0):
        monkeypatch.setattr(autoencoder, "EQUIVARIANCE", share)
        sizes.clear()
        for _ in range(30):
            module.step(0.1)
        assert set(sizes) == ({16, 24, 32} if share else {32})


def test_normalised_latents_have_unit_variance_and_decode_as_before():
    torch.manual_seed(0)
    vae = build_vae(SMALL).eval()
    images = collages(render_pool(48, 1, CPU)[0])
    with torch.no_grad():
        before = vae.decode(vae.encode(images).latent_dist.mode()).sample
        normalise(vae, images)
        latents = vae.encode(images).latent_dist.mode()
        after = vae.decode(latents).sample
    assert torch.allclose(latents.mean((0, 2, 3)), torch.zeros(4), atol=1e-4)
    assert torch.allclose(latents.std((0, 2, 3)), torch.ones(4), atol=1e-3)
    inside = (slice(None), slice(None), slice(16, 48), slice(16, 48))
    assert (before - after)[inside].abs().mean() < 0.05 * before[inside].std()


@pytest.mark.parametrize("shape", [(48, 48), (96, 24), (24, 96)])
def test_orthogonalised_matrices_keep_singular_vectors_and_lose_singular_values(shape):
    matrices = torch.randn(3, *shape, generator=torch.Generator().manual_seed(1))
    u, s, vt = torch.linalg.svd(matrices.double(), full_matrices=False)
    turned = u.mT @ orthogonalised(matrices).double() @ vt.mT
    on = torch.diagonal(turned, dim1=1, dim2=2)
    well = s > 0.05 * s[:, :1]
    assert on[well].min() > 0.6 and on[well].max() < 1.3
    assert (turned - torch.diag_embed(on)).abs().max() < 0.1
    assert s.max() / s[well].min() > 2.5, "the matrices were not orthogonal before"


def test_muon_steps_by_the_orthogonal_factor_of_its_momentum():
    torch.manual_seed(0)
    weights = [torch.nn.Parameter(torch.randn(32, 16)) for _ in range(3)]
    before = [w.detach().clone() for w in weights]
    muon = Muon(weights, weight_decay=0.1)
    for w in weights:
        w.grad = torch.randn(32, 16)
    muon.step(0.01)
    for w, old in zip(weights, before, strict=True):
        assert w.grad is not None
        u, _, vt = torch.linalg.svd(w.grad.double(), full_matrices=False)  # the first momentum is along the gradient
        step = (old * (1 - 0.001) - w.detach()).double() / (0.01 * 0.2 * 32**0.5)
        assert torch.nn.functional.cosine_similarity(step.flatten(), (u @ vt).flatten(), dim=0) > 0.97
        assert step.norm() == pytest.approx((u @ vt).norm().item(), rel=0.2)
    with pytest.raises(ValueError, match="Muon steps matrices"):
        Muon([torch.nn.Parameter(torch.zeros(3))])


def test_the_rate_rises_stays_and_falls_to_nothing():
    assert [rate(step, 0.0, 4) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert [rate(99, p, 4) for p in (0.5, 0.8, 0.9, 1.0)] == pytest.approx([1.0, 1.0, 0.5, 0.0])


def test_muon_gets_the_matrices_of_the_blocks_and_nothing_else():
    names = [name for name, p in build_transformer(Preset(heads=1)).named_parameters() if is_inner_matrix(name, p)]
    parts = ("attn.to_q", "attn.add_k_proj", "ff.net", "ff_context", "proj_mlp", "proj_out")
    assert all(any(part in name for name in names) for part in parts)
    assert len(names) == 3 * 12 + 6 * 5 and not any("norm" in n or "embed" in n or "bias" in n for n in names)


def flow(seed: int = 0) -> FlowTraining:
    torch.manual_seed(seed)
    transformer = build_transformer(Preset(heads=1))
    settings = FlowSettings(batch_size=2, lr=1e-3, warmup=3, ema_decay=0.9)
    module = FlowTraining(transformer, TEXT[0], 8, settings, CPU)
    module.fill(torch.randn(8, 256, 16).bfloat16(), torch.arange(8))
    return module


TEXT: list[Text] = []


@pytest.fixture(scope="module", autouse=True)
def text():
    """One set of embeddings for all: a tenth of the captions would do, but they are made as a training makes them."""
    torch.manual_seed(0)
    TEXT.append(Text(assemble(build_vae(SMALL), build_transformer(Preset(heads=1))), CPU))


def vae_training() -> AutoencoderTraining:
    torch.manual_seed(0)
    return AutoencoderTraining(build_vae(SMALL), render_pool(4, 0, CPU)[0], batch_size=2, lr=1e-3)


def flat(state) -> list[torch.Tensor]:
    if isinstance(state, torch.Tensor):
        return [state.detach().double().flatten()]
    parts = state.values() if isinstance(state, dict) else state if isinstance(state, list | tuple) else []
    return [t for part in parts for t in flat(part)]


class Killed(Exception):
    pass


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", [flow, vae_training])
def test_an_interrupted_training_ends_as_an_unbroken_one(make, tmp_path, monkeypatch):
    monkeypatch.setattr(autoencoder, "STATISTICS", 16)
    whole, first, second = make(), make(), make()
    start = torch.cat(flat(whole.state()))
    random = torch.get_rng_state()
    fit(whole, Limits(20), tmp_path / "whole.pt", "whole")
    end = torch.get_rng_state()
    monkeypatch.setattr(loop, "SAVE_EVERY", -1.0)
    step = first.step

    def dies(progress):
        if first.samples == 12:
            raise Killed
        step(progress)

    first.step = dies
    torch.set_rng_state(random)
    with pytest.raises(Killed):
        fit(first, Limits(20), tmp_path / "t.pt", "first")
    torch.manual_seed(77)
    fit(second, Limits(20), tmp_path / "t.pt", "second")
    assert second.samples == whole.samples == 20
    one, two = torch.cat(flat(whole.state())), torch.cat(flat(second.state()))
    assert torch.equal(one, two) and torch.equal(torch.get_rng_state(), end)
    assert not torch.equal(one, start)
    with pytest.raises(ValueError, match=r"t\.pt.*delete it"):
        fit(vae_training() if make is flow else flow(), Limits(20), tmp_path / "t.pt", "other")


@pytest.mark.filterwarnings("ignore")
def test_snapshots_come_at_their_samples_and_once(tmp_path):
    module, seen = flow(), []

    def reached(mark):
        seen.append((mark, module.samples))

    for limit in (8, 16):
        fit(
            module,
            Limits(limit),
            tmp_path / "t.pt",
            "t",
            [4, 7, 12, 99],
            lambda mark: seen.append((mark, module.samples)),
        )
    assert seen == [(4, 4), (7, 8), (12, 12)]


@pytest.mark.filterwarnings("ignore")
def test_the_clock_ends_a_training(tmp_path):
    module = flow()
    fit(module, Limits(10**9, minutes=0.02), tmp_path / "t.pt", "t")
    assert 0 < module.samples < 10**6 and module.elapsed > 0
    assert Limits(5, minutes=1).seconds(3.0) == 60 and Limits(5, stop_at=0.0).seconds(7.0) == 1e-3
    with pytest.raises(ValueError, match="must be positive"):
        Limits(5, minutes=-1)


@pytest.mark.filterwarnings("ignore")
def test_vae_and_corpus_are_made_once_and_belong_together(tmp_path, monkeypatch):
    monkeypatch.setattr(autoencoder, "STATISTICS", 16)
    vae = VaeSettings(str(tmp_path), renders=4, batch_size=2, lr=1e-3, seed=0, limits=Limits(8), widths=SMALL)
    corpus = CorpusSettings(hands=6, bad_share=0.5, seed=1)
    make_corpus(corpus, vae, CPU)
    file = corpus.file(vae)
    made = file.stat().st_mtime_ns, (tmp_path / "vae" / "config.json").stat().st_mtime_ns
    make_corpus(corpus, vae, CPU)
    assert the_vae(vae, CPU).config.latent_channels == 4
    assert made == (file.stat().st_mtime_ns, (tmp_path / "vae" / "config.json").stat().st_mtime_ns)
    assert corpus.file(vae) != CorpusSettings(hands=6, bad_share=0.25, seed=1).file(vae)
    with pytest.raises(ValueError, match="between 0 and 1"):
        CorpusSettings(hands=6, bad_share=1.5, seed=1)


@pytest.mark.filterwarnings("ignore")
def test_drawing_repeats_and_from_little_noise_gives_the_start_back():
    torch.manual_seed(0)
    vae, which = build_vae(SMALL).eval(), torch.tensor([3, 70])
    module = flow()

    def made(seed, **options):
        g = torch.Generator().manual_seed(seed)
        return draw(module.average, vae, TEXT[0], which, g, **options)

    assert torch.equal(made(1), made(1)) and not torch.equal(made(1), made(2))
    start = torch.randn(2, 256, 16)
    kept = autoencoder.decode_tokens(vae, start)
    near, far = made(1, start=start, step=19), made(1, start=start, step=4)
    assert near.shape == (2, 3, 64, 64)
    assert (near - kept).abs().mean() < 0.5 * (far - kept).abs().mean()


def test_the_text_tells_every_caption_apart():
    codes = sample_hands(64, seed=0).codes
    pipe = assemble(build_vae(SMALL), build_transformer(Preset(heads=1)))
    captions = [text for text, _ in random_captions(40, seed=0)]
    prompt, pooled, _ = pipe.encode_prompt(captions, captions, max_sequence_length=24)
    assert torch.pdist(prompt.flatten(1)).min() > 1 and torch.pdist(pooled).min() > 0.1
    assert caption_index(codes).max() < TEXT[0].empty == 4608


def test_presets_share_blocks_and_differ_in_width():
    widths = {name: build_transformer(preset(name)).inner_dim for name in PRESETS}
    assert widths == {"s": 96, "m": 128, "l": 192}
    with pytest.raises(ValueError, match="unknown preset 'xl': choose one of s, m, l"):
        preset("xl")


def test_settings_that_cannot_train_are_refused():
    good = {"batch_size": 2, "lr": 1e-3, "warmup": 3, "ema_decay": 0.9}
    for name, value in product(("batch_size", "lr", "warmup"), (0, -1)):
        with pytest.raises(ValueError, match="must be positive"):
            FlowSettings(**{**good, name: value})
