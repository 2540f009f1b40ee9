from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from tapetum.backbones import adapters, language_models, tiny, token_loss
from tapetum.backbones.generation import Generation, NucleusDraw
from tapetum.captioners.decoder import TextDecoder
from tapetum.captioners.tokens import CaptionEncoder
from tapetum.errors import ConfigError
from torch import nn

KINDS = ("qwen3", "gpt2")
TEXTS = (
    "a photo of a cat",
    "red",
    "a red square above a blue circle and two small dogs",
    "שלום 👩 x",
    "it is a",
)


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {kind: str(getattr(tiny, kind)(root / kind)) for kind in KINDS}


@pytest.fixture(params=KINDS)
def decoder(request, directories):
    return made(directories[request.param])


def made(directory, length=24, **more):
    encoder = CaptionEncoder(language_models.tokenizer(directory), length)
    return TextDecoder(language_models.create(directory, pretrained=True), encoder, **more).eval()


def prefixes(count=5, length=3, seed=0):
    return torch.randn(count, length, 64, generator=torch.Generator().manual_seed(seed))


def oracle(model, visual, rows):
    """Each caption alone, unpadded, through the whole model, all logits, in float64."""
    found = []
    for prefix, ids in zip(visual, rows, strict=True):
        fed = torch.cat([prefix, model.get_input_embeddings()(ids)])[None]
        logits = model(inputs_embeds=fed).logits[0].double()
        found.append(
            sum(-logits[len(prefix) - 1 + place].log_softmax(0)[ids[place]] for place in range(len(ids)))
        )
    return torch.stack(found)


def rows_of(inputs):
    return [ids[mask.bool()] for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)]


@pytest.mark.parametrize("chunk", [2**23, 2**12, 1])
def test_the_loss_is_that_of_each_caption_alone_with_all_logits(decoder, monkeypatch, chunk):
    monkeypatch.setattr(token_loss, "_LOGITS_AT_ONCE", chunk)
    inputs, visual = decoder.encoder(TEXTS), prefixes().requires_grad_()
    loss = decoder.loss(visual, inputs)
    expected = oracle(decoder.plain, visual, rows_of(inputs))
    assert loss.totals.dtype == torch.float32
    assert loss.counts.tolist() == decoder.encoder.lengths(TEXTS).tolist()
    assert (loss.total, loss.count) == (loss.totals.sum(), loss.counts.sum())
    torch.testing.assert_close(loss.totals.double(), expected, rtol=1e-5, atol=0)
    (ours,) = torch.autograd.grad(loss.total, visual, retain_graph=True)
    (theirs,) = torch.autograd.grad(expected.sum(), visual)
    torch.testing.assert_close(ours, theirs.float(), rtol=1e-4, atol=1e-5)


def test_the_loss_does_not_know_the_rest_of_the_batch_or_what_stands_on_padding(decoder):
    inputs, visual = decoder.encoder(TEXTS), prefixes()
    whole = decoder.loss(visual, inputs).totals
    alone = [decoder.loss(visual[[n]], decoder.encoder([text])).totals for n, text in enumerate(TEXTS)]
    torch.testing.assert_close(whole, torch.cat(alone), rtol=1e-5, atol=0)
    padded = {name: F.pad(value, (0, 5), value=0) for name, value in inputs.items() if name != "truncated"}
    padded["input_ids"] = padded["input_ids"].where(padded["attention_mask"].bool(), 7)
    torch.testing.assert_close(decoder.loss(visual, padded).totals, whole, rtol=1e-5, atol=0)


def test_an_end_that_looks_like_padding_is_learnt(directories):
    decoder = made(directories["gpt2"])
    inputs = decoder.encoder(["red", "a red square"])
    assert decoder.encoder.pad_id == decoder.encoder.eos_id
    assert decoder.loss(prefixes(2), inputs).counts.tolist() == inputs["attention_mask"].sum(1).tolist()


def test_the_prefix_matters(decoder):
    inputs = decoder.encoder(["a red square"] * 2)
    hidden = decoder._hidden(prefixes(2), inputs["input_ids"])
    one, other = decoder.plain.get_output_embeddings()(hidden)
    assert (one - other).abs().max() > 0.5 * one.std()


def test_autocast_is_near_float32_and_the_sum_stays_float32(decoder):
    inputs, visual = decoder.encoder(TEXTS), prefixes().requires_grad_()
    exact = decoder.loss(visual, inputs).totals
    with torch.autocast("cpu", torch.bfloat16):
        rough = decoder.loss(visual.bfloat16(), inputs).totals
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, rtol=0.02, atol=0)
    rough.sum().backward()
    assert visual.grad.isfinite().all()


def test_gradients_flow_through_a_frozen_model_and_do_not_stay_in_it(decoder):
    decoder.requires_grad_(False)
    visual = prefixes().requires_grad_()
    decoder.loss(visual, decoder.encoder(TEXTS)).total.backward()
    assert visual.grad.abs().sum(-1).min() > 0
    assert all(value.grad is None for value in decoder.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_a_frozen_model_in_eval_mode_forgets_activations_and_learns_the_same(directories, kind):
    kept = {}
    for again in (False, True):
        decoder = made(directories[kind], gradient_checkpointing=again)
        decoder.requires_grad_(False)
        decoder.recompute(True)
        visual = prefixes(8, 32).requires_grad_()
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):  # noqa: B023
            loss = decoder.loss(visual, decoder.encoder(["a photo of a cat"] * 8)).total
        loss.backward()
        kept[again] = (sum(sizes), loss.detach(), visual.grad)
    assert kept[True][0] < 0.7 * kept[False][0]
    torch.testing.assert_close(kept[True][1:], kept[False][1:], rtol=1e-6, atol=1e-6)
    decoder.recompute(False)
    assert decoder.generate(prefixes(1), Generation(max_new_tokens=4)).lengths <= 4


def test_most_logits_never_exist_at_one_time(monkeypatch):
    rows, words = 200, 1000
    monkeypatch.setattr(token_loss, "_LOGITS_AT_ONCE", 20 * words)
    head, hidden = nn.Linear(8, words, bias=False), torch.randn(rows, 8, requires_grad=True)
    largest = []
    head.register_forward_hook(lambda module, given, out: largest.append(len(out)))
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        token_loss.nll(head, hidden, torch.arange(rows)).sum().backward()
    assert max(largest) == 20
    assert len(largest) == 2 * rows / 20  # once more on the way back
    assert max(saved) <= 20 * words


# --- captions ---


def greedy(model, prefix, eos, most):
    """By hand: one caption, no cache, everything fed again for every token."""
    ids = []
    while len(ids) < most and (not ids or ids[-1] != eos):
        embedded = model.get_input_embeddings()(torch.tensor(ids, dtype=torch.long))
        logits = model(inputs_embeds=torch.cat([prefix, embedded])[None]).logits[0, -1]
        ids.append(int(logits.argmax()))
    return ids


def ending(decoder, prefix):
    """The decoder with an end that its greedy captions reach: here a frequent token is made the end."""
    decoder = copy.deepcopy(decoder)
    written = [greedy(decoder.plain, one, -1, 8) for one in prefix]
    token = written[0][3]
    decoder.encoder.tokenizer.eos_token = decoder.encoder.tokenizer.convert_ids_to_tokens(token)
    assert decoder.encoder.eos_id == token
    return decoder


@torch.no_grad()
def test_greedy_captions_are_those_of_a_loop_without_cache_and_stop_at_eos(decoder):
    visual = prefixes(12)
    decoder = ending(decoder, visual)
    found = decoder.generate(visual, Generation(max_new_tokens=10))
    wanted = [greedy(decoder.plain, one, decoder.encoder.eos_id, 10) for one in visual]
    assert found.lengths.tolist() == [len(ids) for ids in wanted]
    assert len(set(found.lengths.tolist())) > 1, "some end early, some don't"
    assert found.tokens.shape == (12, max(map(len, wanted)))
    for row, ids, text in zip(found.tokens.tolist(), wanted, found.texts, strict=True):
        assert row == ids + [decoder.encoder.pad_id] * (len(row) - len(ids))
        assert text == decoder.encoder.decode([ids])[0]


@pytest.mark.parametrize(
    "generation",
    [
        Generation(strategy="greedy", repetition_penalty=1.3, min_length=5),
        Generation(strategy="beam", beams=3, max_new_tokens=12),
        Generation(strategy="beam", beams=4, length_penalty=0.0, max_new_tokens=12, min_length=2),
        Generation(strategy="nucleus", max_new_tokens=12),
        Generation(strategy="nucleus", top_p=0.5, temperature=0.7, max_new_tokens=12, seed=4),
    ],
    ids=lambda one: f"{one.strategy}-{one.min_length}-{one.seed}",
)
def test_a_caption_is_the_same_alone_and_in_a_batch(decoder, generation):
    visual = prefixes(5)
    decoder = ending(decoder, visual)
    whole = decoder.generate(visual, generation)
    for number, one in enumerate(visual):
        alone = decoder.generate(one[None], generation)
        assert alone.texts == [whole.texts[number]]
        assert alone.lengths == whole.lengths[number]
    assert whole.lengths.min() > generation.min_length


@torch.no_grad()
def test_beam_search_finds_what_trying_everything_finds(decoder):
    # With as many beams as there are tokens, the best of all captions of two tokens is among them.
    words = decoder.plain.config.vocab_size
    prefix = prefixes(1)
    found = decoder.generate(prefix, Generation(strategy="beam", beams=words, max_new_tokens=2))
    embed = decoder.plain.get_input_embeddings()
    first = decoder.plain(inputs_embeds=prefix).logits[0, -1].log_softmax(0)
    fed = torch.cat([prefix.expand(words, -1, -1), embed(torch.arange(words))[:, None]], dim=1)
    both = first[:, None] + decoder.plain(inputs_embeds=fed).logits[:, -1].log_softmax(1)
    both /= 2
    both[decoder.encoder.eos_id] = -torch.inf
    best = divmod(int(both.argmax()), words)
    assert first[decoder.encoder.eos_id] < both.max(), "the empty caption is not the best"
    assert tuple(found.tokens[0].tolist()) == best


def test_nucleus_draws_from_the_likeliest_tokens_in_their_proportions():
    logits, top_p, temperature, draws = torch.randn(1, 50), 0.6, 0.8, 2000
    likely, places = (logits[0].double() / temperature).softmax(0).sort(descending=True)
    count = int((likely.cumsum(0) < top_p).sum()) + 1
    wanted = torch.zeros(50, dtype=torch.float64)
    wanted[places[:count]] = likely[:count] / likely[:count].sum()
    drawn = [NucleusDraw(top_p, temperature, seed)(torch.zeros(1, 0).long(), logits) for seed in range(draws)]
    assert all((scores > -torch.inf).sum() == 1 for scores in drawn)
    seen = torch.bincount(torch.tensor([int(scores.argmax()) for scores in drawn]), minlength=50) / draws
    assert count > 3
    assert seen[wanted == 0].sum() == 0
    assert ((seen - wanted).abs() < 4.5 * (wanted * (1 - wanted) / draws).sqrt() + 1e-9).all()


def test_nucleus_depends_on_its_seed_and_leaves_the_generator_alone(decoder):
    visual = prefixes(4)
    before = torch.get_rng_state()
    one = decoder.generate(visual, Generation(strategy="nucleus"))
    torch.manual_seed(99)
    again = decoder.generate(visual, Generation(strategy="nucleus"))
    torch.set_rng_state(before)
    decoder.generate(visual, Generation(strategy="nucleus"))
    assert torch.equal(torch.get_rng_state(), before)
    assert one.texts == again.texts
    assert one.texts != decoder.generate(visual, Generation(strategy="nucleus", seed=1)).texts


def test_what_a_model_says_of_generation_itself_has_no_effect(directories):
    from transformers import GenerationConfig

    model = language_models.create(directories["qwen3"], pretrained=True)
    model.generation_config = GenerationConfig(
        do_sample=True, temperature=9.0, max_length=5, eos_token_id=[1, 2]
    )
    encoder = CaptionEncoder(language_models.tokenizer(directories["qwen3"]))
    found = TextDecoder(model, encoder).eval().generate(prefixes(4), Generation())
    assert found.texts == made(directories["qwen3"]).generate(prefixes(4), Generation()).texts


def test_no_images_make_no_captions(decoder):
    found = decoder.generate(prefixes(0), Generation())
    assert (found.texts, found.tokens.shape, found.lengths.shape) == ([], (0, 0), (0,))


def test_adapters_in_the_model_learn_and_write(directories):
    model = language_models.create(directories["qwen3"], pretrained=True)
    adapted = adapters.adapt(model, targets=["q_proj"], name="x")
    encoder = CaptionEncoder(language_models.tokenizer(directories["qwen3"]), 24)
    decoder = TextDecoder(adapted, encoder).eval()
    plain, inputs = made(directories["qwen3"]), encoder(TEXTS)
    torch.testing.assert_close(decoder.loss(prefixes(), inputs).totals, plain.loss(prefixes(), inputs).totals)
    assert decoder.generate(prefixes(), Generation()).texts == plain.generate(prefixes(), Generation()).texts
    decoder.loss(prefixes(), inputs).total.backward()
    assert all((value.grad is not None) == ("lora" in name) for name, value in decoder.named_parameters())


def test_more_positions_than_the_model_has_are_refused_with_the_figures(directories):
    decoder = made(directories["gpt2"])
    decoder.check_room(384, 128, "key", "less")
    with pytest.raises(
        ConfigError, match=r"510 and a caption of up to 32 tokens are 542 .* has 512: type .*=2"
    ):
        decoder.generate(prefixes(1, 510), Generation())


def test_a_tokenizer_of_another_model_is_refused(directories):
    encoder = CaptionEncoder(language_models.tokenizer(directories["qwen3"]))
    with pytest.raises(ConfigError, match=r"has 617 tokens and the language model embeds 610.*one directory"):
        TextDecoder(language_models.create(directories["gpt2"], pretrained=False), encoder)


def test_settings_out_of_range_are_named_together():
    with pytest.raises(ConfigError) as caught:
        Generation(
            strategy="best", beams=0, top_p=0, temperature=0, seed=-1, min_length=40, repetition_penalty=0
        )
    assert [problem.partition("=")[0] for problem in caught.value.problems] == [
        f"model.generation.{name}"
        for name in ("strategy", "beams", "top_p", "temperature", "seed", "min_length", "repetition_penalty")
    ]
    assert (
        caught.value.problems[0]
        == "model.generation.strategy=best is out of range: one of greedy, beam, nucleus"
    )
