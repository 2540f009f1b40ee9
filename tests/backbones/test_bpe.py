"""A BPE learnt from captions: the merges of the definition, nothing unknown, the same every time."""

import subprocess
import sys
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tapetum.backbones.bpe import END, PAD, learn, merges_of, tokenizer_of
from tapetum.errors import ConfigError, DataError

CAPTIONS = ["A dog runs.", "a dog runs across the grass", "two dogs run", "the dog's ball — ça va, 犬 🐕"]


def merges_by_definition(words, most):
    """Counts every pair anew before each merge."""
    spelled = {word: list(word) for word in words}
    merges = []
    while len(merges) < most:
        counts = Counter()
        for word, letters in spelled.items():
            for pair in pairwise(letters):
                counts[pair] += words[word]
        counts = {pair: count for pair, count in counts.items() if count > 1}
        if not counts:
            break
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        for letters in spelled.values():
            place = 0
            while place + 1 < len(letters):
                if (letters[place], letters[place + 1]) == best:
                    letters[place : place + 2] = ["".join(best)]
                place += 1
    return merges


@settings(max_examples=150, deadline=None)
@given(
    words=st.dictionaries(st.text("abc", min_size=1, max_size=9), st.integers(1, 5), max_size=8),
    most=st.integers(0, 12),
)
def test_the_merges_are_those_of_the_definition(words, most):
    assert merges_of(Counter(words), most) == merges_by_definition(words, most)


@settings(max_examples=100, deadline=None)
@given(text=st.text(min_size=1, max_size=40).filter(lambda text: text.isprintable() and text.strip()))
def test_any_text_comes_back_as_it_was(text):
    tokenizer = tokenizer_of(learn(CAPTIONS, 300))
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text


def test_a_vocabulary_is_no_larger_than_asked_and_marks_end_and_padding():
    for most in (258, 270, 5000):
        tokenizer = tokenizer_of(learn(CAPTIONS, most))
        assert len(tokenizer) <= most
        assert (tokenizer.eos_token, tokenizer.pad_token) == (END, PAD)
        assert tokenizer.eos_token_id != tokenizer.pad_token_id
    assert len(tokenizer_of(learn(CAPTIONS, 265))) == 265


def test_another_process_learns_the_same():
    code = f"from tapetum.backbones.bpe import learn; print(hash_of(learn({CAPTIONS!r}, 300)))"
    code = "import hashlib; hash_of = lambda text: hashlib.sha256(text.encode()).hexdigest()\n" + code
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PATH": ""},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1


def test_what_can_not_be_learnt_from_is_said():
    with pytest.raises(ConfigError, match=r"model\.net\.vocabulary=100 is too small: .* are 258 tokens"):
        learn(CAPTIONS, 100)
    with pytest.raises(DataError, match="no caption to learn a vocabulary from"):
        learn([], 1000)


@pytest.mark.parametrize("content", ["{", "{}", '{"model": 1}'])
def test_what_is_no_tokenizer_is_said(content):
    with pytest.raises(ConfigError, match=r"model\.net\.tokenizer holds no tokenizer"):
        tokenizer_of(content)


def test_a_tokenizer_without_an_end_is_said():
    content = learn(CAPTIONS, 300).replace(END, "<|eos|>")
    with pytest.raises(ConfigError, match=r"lacks <\|end\|>: leave it out"):
        tokenizer_of(content)
