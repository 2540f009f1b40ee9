from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tapetum.backbones import tiny
from tapetum.errors import ConfigError, DataError
from tapetum.vlms import encoding
from tapetum.vlms.pseudo_word import Marked, WithWord, with_word, without_word
from transformers import AutoTokenizer

WORDS = st.lists(st.sampled_from(["red", "zebra", "circle", "?", "</s>", "ü", "two"]), max_size=5)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return AutoTokenizer.from_pretrained(tiny.instructblip(tmp_path_factory.mktemp("tiny") / "tiny"))


@settings(max_examples=50, deadline=None)
@given(WORDS, WORDS.filter(bool))
def test_the_tokens_of_an_answer_are_those_behind_the_prompt(tokenizer, before, said):
    prompt, answer = " ".join(before), " ".join(said)
    text = f"{prompt} {answer}"
    found = encoding.tokens_of(tokenizer, text, [(len(prompt), len(text))], special=False)
    assert tokenizer.decode(found.ids) == text
    assert found.answer == sorted(found.answer)
    answered = [token for token, inside in zip(found.ids, found.answer, strict=True) if inside]
    assert tokenizer.decode(answered) == f" {answer}"
    assert tokenizer.eos_token_id not in found.ids


def test_names_of_special_tokens_are_these_where_they_are_meant(tokenizer):
    text = "red </s>"
    assert encoding.tokens_of(tokenizer, text, [], special=True).ids[-1] == tokenizer.eos_token_id
    assert len(encoding.tokens_of(tokenizer, text, [], special=False).ids) > 2


def test_candidates_end_only_where_one_begins_another():
    assert encoding.told_apart([[5], [6]], 2) == [[5], [6]]
    assert encoding.told_apart([[5, 7], [5, 8]], 2) == [[5, 7], [5, 8]]
    assert encoding.told_apart([[5], [5, 8], [6]], 2) == [[5, 2], [5, 8, 2], [6, 2]]
    with pytest.raises(ConfigError, match=r"answers 1 and 2 of model\.answers have the same tokens"):
        encoding.told_apart([[5, 6], [5, 6]], 2)
    with pytest.raises(ConfigError, match=r"answer 2 of model\.answers has no token"):
        encoding.told_apart([[5], []], 2)


def test_rows_are_padded_on_the_right_and_none_are_no_rows():
    assert encoding.padded([[1], [2, 3]], 9).tolist() == [[1, 9], [2, 3]]
    assert encoding.mask_of([[1], [2, 3]]).tolist() == [[1, 0], [1, 1]]
    assert encoding.padded([], 9).shape == (0, 0)


def test_padding_is_the_end_where_there_is_none(tokenizer):
    import copy

    other = copy.deepcopy(tokenizer)
    assert encoding.pad_id(other, "KEY") == tokenizer.pad_token_id
    other.pad_token = None
    assert encoding.pad_id(other, "KEY") == tokenizer.eos_token_id
    other.eos_token = None
    with pytest.raises(ConfigError, match="tokenizer of KEY has neither a pad_token nor an eos_token"):
        encoding.pad_id(other, "KEY")


def test_nothing_to_learn_and_no_room_name_the_conversation():
    asked = [{"role": "user", "content": "What is it?"}, {"role": "assistant", "content": "red"}]
    encoding.check_labels([[-100, 5]], [asked])
    with pytest.raises(DataError, match=r"the answer 'red' to 'What is it\?' has no token to learn from"):
        encoding.check_labels([[-100, -100]], [asked])
    encoding.room_for(6, 4, 10, asked)
    encoding.room_for(6, 4, None, asked)
    with pytest.raises(DataError, match=r"'What is it\?' takes 6 tokens and its answer 5, .* room for 10"):
        encoding.room_for(6, 5, 10, asked)


# --- a learned word ---


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Is this real [*]?", Marked("Is this real?", [12])),
        ("[*] is real", Marked("is real", [0])),
        ("real [*] [*]", Marked("real", [4, 4])),
        ("a [*] b [*]", Marked("a b", [1, 3])),
        ("real", Marked("real", [])),
    ],
)
def test_a_word_is_taken_out_with_the_space_in_front_of_it(text, expected):
    assert without_word(text, "[*]") == expected


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(["red", "circle", "[*]", "two", "?"]), min_size=1, max_size=6))
def test_a_word_stands_between_the_tokens_of_its_neighbours(tokenizer, words):
    marked = without_word(" ".join(words), "[*]")
    ids = encoding.tokens_of(tokenizer, marked.text, [], special=False).ids
    found = with_word(tokenizer, marked, ids, -1)
    assert [token for token in found if token != -1] == ids
    spelled = "".join(" [*] " if token == -1 else tokenizer.decode([token]) for token in found)
    assert spelled.split() == words


def test_an_embedding_with_a_word_gives_it_for_the_id_behind_the_last():
    plain = torch.nn.Embedding(5, 3)
    more = WithWord(plain)
    more.vector.data[:] = 7
    found = more(torch.tensor([[0, 5, 4]]))
    assert torch.equal(found[0, [0, 2]], plain(torch.tensor([0, 4])))
    assert found[0, 1].tolist() == [7, 7, 7]
    assert (more.num_embeddings, more.embedding_dim, more.weight.shape) == (5, 3, (5, 3))
