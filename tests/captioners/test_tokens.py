from __future__ import annotations

import pickle
import unicodedata

import pytest
import torch
from tapetum.backbones import language_models, tiny
from tapetum.captioners.tokens import CaptionEncoder
from tapetum.errors import ConfigError, DataError

KINDS = ("qwen3", "gpt2")
STRANGE = (
    "naïve 👩\u200d👩\u200d👧 é",
    "e\u0301 combining",
    "שלום مرحبا",
    "<|endoftext|> is text here",
    "a  b\tc\nd",
    "\x00\u200b",
)


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    root = tmp_path_factory.mktemp("tokens")
    return {kind: language_models.tokenizer(str(getattr(tiny, kind)(root / kind))) for kind in KINDS}


@pytest.fixture(params=KINDS)
def encoder(request, tokenizers):
    return CaptionEncoder(tokenizers[request.param], 16)


def test_rows_are_the_tokens_of_the_tokenizer_with_eos_and_padding_on_the_right(encoder):
    texts = ["a photo of a cat", " red \n", "a red square above a blue circle"]
    inputs = encoder(texts)
    longest = max(encoder.lengths(texts))
    assert inputs["input_ids"].shape == inputs["attention_mask"].shape == (3, longest)
    assert all(value.dtype == torch.int64 for value in inputs.values())
    assert inputs["truncated"].tolist() == [0, 0, 0]
    for row, text in enumerate(texts):
        wanted = [*encoder.tokenizer(text.strip())["input_ids"], encoder.eos_id]
        count = int(encoder.lengths(texts)[row])
        assert len(wanted) == count
        assert inputs["input_ids"][row].tolist() == wanted + [encoder.pad_id] * (longest - count)
        assert inputs["attention_mask"][row].tolist() == [1] * count + [0] * (longest - count)


def test_without_a_pad_token_rows_are_padded_with_eos_and_only_the_mask_tells(tokenizers):
    assert tokenizers["gpt2"].pad_token_id is None
    encoder = CaptionEncoder(tokenizers["gpt2"])
    inputs = encoder(["red", "a red square"])
    assert inputs["input_ids"][0, 1:].tolist() == [encoder.eos_id] * (inputs["input_ids"].shape[1] - 1)
    assert inputs["attention_mask"][0].sum() == 2


def test_a_caption_that_is_too_long_is_cut_and_counted_and_keeps_its_end(encoder):
    texts = ["red", " ".join(["cat"] * 15), " ".join(["cat"] * 16), " ".join(["cat"] * 40)]
    inputs = encoder(texts)
    assert inputs["truncated"].tolist() == [0, 0, 1, 1]
    assert inputs["input_ids"].shape == (4, 16)
    assert inputs["input_ids"][2:, -1].tolist() == [encoder.eos_id] * 2
    assert inputs["attention_mask"].sum(1).tolist() == encoder.lengths(texts).tolist() == [2, 16, 16, 16]
    assert encoder.decode(inputs["input_ids"][3:]) == [" ".join(["cat"] * 15)]


@pytest.mark.parametrize("text", STRANGE)
def test_unusual_unicode_comes_back_as_it_went_in(tokenizers, text):
    for kind, tokenizer in tokenizers.items():
        encoder = CaptionEncoder(tokenizer)
        found = encoder.decode(encoder([text, "a cat"])["input_ids"])
        # Qwen's tokenizer composes letters and their marks before it looks at them; GPT-2's does not.
        wanted = unicodedata.normalize("NFC", text) if kind == "qwen3" else text
        assert found == [wanted.strip(), "a cat"]


def test_the_name_of_a_mark_in_a_caption_does_not_end_it(encoder):
    ids = encoder(["<|endoftext|> a"])["input_ids"][0]
    assert (ids == encoder.eos_id).sum() == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"a caption is empty \(''\)"),
        (" \n\t", r"a caption is empty \(' \\n\\t'\)"),
        (None, r"a caption is empty \(None\)"),
        ("a \ud800 cat", r"no valid Unicode \(character 2\).*save it as UTF-8"),
    ],
)
def test_what_is_no_caption_is_refused(encoder, text, message):
    for ask in (encoder, encoder.lengths):
        with pytest.raises(DataError, match=message):
            ask(["a cat", text])


def test_no_captions_make_no_rows(encoder):
    assert encoder([])["truncated"].shape == (0,)
    assert encoder.lengths([]).shape == (0,)


def test_the_encoder_travels_to_workers(encoder):
    other = pickle.loads(pickle.dumps(encoder))
    assert torch.equal(other(["a red cat"])["input_ids"], encoder(["a red cat"])["input_ids"])
    assert other.decode([[1, 2]]) == encoder.decode([[1, 2]])


def test_what_could_never_end_a_caption_is_refused(tokenizers):
    with pytest.raises(ConfigError, match=r"model\.net\.max_caption_length=1 leaves no room"):
        CaptionEncoder(tokenizers["gpt2"], 1)
    endless = pickle.loads(pickle.dumps(tokenizers["gpt2"]))
    endless.eos_token = None
    with pytest.raises(ConfigError, match=r"no eos_token, so that no caption could end"):
        CaptionEncoder(endless)
