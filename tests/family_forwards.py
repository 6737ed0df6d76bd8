"""Each family's forward, written out from its modules: image tokens of every block, and the model's output.

All take the transformer, the packed latent [B, n, c], the step's sigma, the embeddings of the batch, the grid and the
guidance. They return ({block: [B, n, d]} of the conditional branch, of the other or None), and the velocity [B, n, c]
with guidance combined.
"""

import torch
from einops import rearrange

from test_diffusion_capture import blocks_by_hand


def stack(embeddings, name="prompt_embeds"):
    return torch.stack([getattr(e, name) for e in embeddings])


def negatives(embeddings):
    return [e.negative for e in embeddings]


def flux(transformer, x, sigma, embeddings, grid, guidance):
    pooled = stack(embeddings, "pooled_prompt_embeds")
    seen, v = blocks_by_hand(transformer, x, sigma, guidance, stack(embeddings), pooled, *grid)
    return (seen, None), v


def flux2(transformer, x, sigma, embeddings, grid, guidance):
    def branch(text, number):
        time = (sigma * 1000).expand(len(x)) / 1000 * 1000
        temb = transformer.time_guidance_embed(time, None if number is None else torch.full([len(x)], number) * 1000)
        one = torch.arange(1)
        places = torch.cartesian_prod(one, torch.arange(grid[0]), torch.arange(grid[1]), one)
        words = torch.cartesian_prod(one, one, one, torch.arange(text.shape[1]))
        rotary = tuple(
            torch.cat(p) for p in zip(transformer.pos_embed(words), transformer.pos_embed(places), strict=True)
        )
        for_image, for_text = (
            transformer.double_stream_modulation_img(temb),
            transformer.double_stream_modulation_txt(temb),
        )
        image, text = transformer.x_embedder(x), transformer.context_embedder(text)
        seen = {}
        for i, block in enumerate(transformer.transformer_blocks):
            text, image = block(hidden_states=image, encoder_hidden_states=text, temb_mod_img=for_image,
                                temb_mod_txt=for_text, image_rotary_emb=rotary)  # fmt: skip
            seen[f"double.{i}"] = image
        joint, modulation = torch.cat([text, image], 1), transformer.single_stream_modulation(temb)
        for i, block in enumerate(transformer.single_transformer_blocks):
            joint = block(hidden_states=joint, encoder_hidden_states=None, temb_mod=modulation, image_rotary_emb=rotary)
            seen[f"single.{i}"] = joint[:, text.shape[1] :]
        return seen, transformer.proj_out(transformer.norm_out(joint[:, text.shape[1] :], temb))

    seen, v = branch(stack(embeddings), guidance if transformer.config.guidance_embeds else None)
    if embeddings[0].negative is None:
        return (seen, None), v
    other, v_other = branch(stack(negatives(embeddings)), None)
    return (seen, other), v_other + guidance * (v - v_other)


def chroma(transformer, x, sigma, embeddings, grid, guidance):
    def branch(embeddings):
        text = stack(embeddings)
        mask = torch.cat([stack(embeddings, "mask"), torch.ones(len(x), x.shape[1], dtype=torch.bool)], 1)
        pooled = transformer.distilled_guidance_layer(
            transformer.time_text_embed((sigma * 1000).expand(len(x)) / 1000 * 1000)
        )
        ids = torch.zeros(text.shape[1] + x.shape[1], 3)
        ids[text.shape[1] :, 1] = torch.arange(grid[0]).repeat_interleave(grid[1])
        ids[text.shape[1] :, 2] = torch.arange(grid[1]).repeat(grid[0])
        rotary = transformer.pos_embed(ids)
        image, text = transformer.x_embedder(x), transformer.context_embedder(text)
        double, single = transformer.transformer_blocks, transformer.single_transformer_blocks
        seen = {}
        for i, block in enumerate(double):
            first, second = 3 * len(single) + 6 * i, 3 * len(single) + 6 * len(double) + 6 * i
            temb = torch.cat([pooled[:, first : first + 6], pooled[:, second : second + 6]], 1)
            text, image = block(hidden_states=image, encoder_hidden_states=text, temb=temb, image_rotary_emb=rotary,
                                attention_mask=mask, joint_attention_kwargs={})  # fmt: skip
            seen[f"double.{i}"] = image
        joint = torch.cat([text, image], 1)
        for i, block in enumerate(single):
            joint = block(hidden_states=joint, temb=pooled[:, 3 * i : 3 * i + 3], image_rotary_emb=rotary,
                          attention_mask=mask, joint_attention_kwargs={})  # fmt: skip
            seen[f"single.{i}"] = joint[:, text.shape[1] :]
        return seen, transformer.proj_out(transformer.norm_out(joint[:, text.shape[1] :], pooled[:, -2:]))

    seen, v = branch(embeddings)
    other, v_other = branch(negatives(embeddings))
    return (seen, other), v_other + guidance * (v - v_other)


def qwen(transformer, x, sigma, embeddings, grid, guidance):
    def branch(embeddings):
        lengths = torch.tensor([len(e.prompt_embeds) for e in embeddings])
        text = torch.nn.utils.rnn.pad_sequence([e.prompt_embeds for e in embeddings], batch_first=True)
        mask = torch.arange(text.shape[1]) < lengths[:, None]
        image, words = transformer.img_in(x), transformer.txt_in(transformer.txt_norm(text))
        temb = transformer.time_text_embed((sigma * 1000).expand(len(x)) / 1000, image)
        rotary = transformer.pos_embed([[(1, *grid)]] * len(x), max_txt_seq_len=text.shape[1], device=x.device)
        seen = {}
        for i, block in enumerate(transformer.transformer_blocks):
            words, image = block(hidden_states=image, encoder_hidden_states=words, temb=temb, image_rotary_emb=rotary,
                                 encoder_hidden_states_mask=None if mask.all() else mask,
                                 joint_attention_kwargs={})  # fmt: skip
            seen[f"double.{i}"] = image
        return seen, transformer.proj_out(transformer.norm_out(image, temb))

    seen, v = branch(embeddings)
    other, v_other = branch(negatives(embeddings))
    combined = v_other + guidance * (v - v_other)
    return (seen, other), combined * (v.norm(dim=-1, keepdim=True) / combined.norm(dim=-1, keepdim=True))


def sd3(transformer, x, sigma, embeddings, grid, guidance):
    """Both branches in one call, unconditional first."""
    h, w = grid
    both = [*negatives(embeddings), *embeddings]
    latent = rearrange(x, "b (h w) (c p q) -> b c (h p) (w q)", h=h, w=w, p=2, q=2)
    image, text = transformer.pos_embed(torch.cat([latent] * 2)), transformer.context_embedder(stack(both))
    temb = transformer.time_text_embed((sigma * 1000).expand(len(both)), stack(both, "pooled_prompt_embeds"))
    seen, other = {}, {}
    for i, block in enumerate(transformer.transformer_blocks):
        text, image = block(hidden_states=image, encoder_hidden_states=text, temb=temb)
        other[f"double.{i}"], seen[f"double.{i}"] = image.chunk(2)
    out = transformer.proj_out(transformer.norm_out(image, temb))
    v_other, v = rearrange(out, "b n (p q c) -> b n (c p q)", p=2, q=2).chunk(2)
    return (seen, other), v_other + guidance * (v - v_other)


def z_image(transformer, x, sigma, embeddings, grid, guidance):
    """Both branches in one call, conditional first; every sequence filled up to 32, the batch to its longest."""
    both = [e.prompt_embeds for e in (*embeddings, *negatives(embeddings))]
    h, w, n = *grid, x.shape[1]
    time = transformer.t_embedder(((1000 - sigma * 1000) / 1000).expand(len(both)) * transformer.t_scale)
    patches = rearrange(x, "b n (c p q) -> b n (p q c)", p=2, q=2)

    def filled(rows):
        return torch.cat([rows, rows[-1:].repeat(-len(rows) % 32, 1)])

    def sequences(embedder, rows, token, lengths):
        sizes = [len(r) for r in rows]
        embedded = list(embedder(torch.cat(rows)).split(sizes))
        return [torch.where((torch.arange(s) >= k)[:, None], token, e)
                for e, s, k in zip(embedded, sizes, lengths, strict=True)]  # fmt: skip

    def padded(rows):
        sizes = [len(r) for r in rows]
        mask = torch.arange(max(sizes)) < torch.tensor(sizes)[:, None]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), None if mask.all() else mask

    captions = [filled(text) for text in both]
    images = sequences(transformer.all_x_embedder["2-1"], [filled(p) for p in torch.cat([patches] * 2)],
                       transformer.x_pad_token, [n] * len(both))  # fmt: skip
    captions = sequences(transformer.cap_embedder, captions, transformer.cap_pad_token, [len(t) for t in both])
    zero = torch.zeros(len(images[0]) - n, 3, dtype=torch.int32)
    places, rotary_x, rotary_c = torch.cartesian_prod(torch.arange(h), torch.arange(w)), [], []
    for caption in captions:
        turn = torch.arange(1, len(caption) + 1, dtype=torch.int32)[:, None]
        rotary_c.append(transformer.rope_embedder(torch.nn.functional.pad(turn, (0, 2))))
        first = torch.full([n, 1], len(caption) + 1)
        rotary_x.append(transformer.rope_embedder(torch.cat([torch.cat([first, places], 1).int(), zero])))
    image, rotary = torch.stack(images), torch.stack(rotary_x)
    for block in transformer.noise_refiner:
        image = block(image, None, rotary, time)
    text, mask = padded(captions)
    for block in transformer.context_refiner:
        text = block(text, mask, padded(rotary_c)[0])
    joint, mask = padded([torch.cat([i, t[: len(c)]]) for i, t, c in zip(image, text, captions, strict=True)])
    rotary, _ = padded([torch.cat(r) for r in zip(rotary_x, rotary_c, strict=True)])
    seen, other = {}, {}
    for i, block in enumerate(transformer.layers):
        joint = block(joint, mask, rotary, time)
        seen[f"single.{i}"], other[f"single.{i}"] = joint[:, :n].chunk(2)
    out = transformer.all_final_layer["2-1"](joint, c=time)[:, :n]
    v, v_other = rearrange(out, "b n (p q c) -> b n (c p q)", p=2, q=2).chunk(2)
    return (seen, other), -(v + guidance * (v - v_other))
