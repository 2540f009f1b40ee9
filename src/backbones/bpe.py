"""A byte-level BPE learnt from texts, the same on every machine and in every process.

Sennrich, Haddow and Birch 2016 (merges), Radford et al. 2019 (bytes as the alphabet). The trainer of Hugging
Face's tokenizers breaks ties between equally frequent pairs differently from process to process, so merges
are learnt here; the tokenizer that they make is theirs.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

END, PAD = "<|end|>", "<|pad|>"
_SPECIAL = (PAD, END)
_BYTES = 256

Pair = tuple[str, str]


def learn(texts: Iterable[str], vocabulary: int) -> str:
    """The JSON of a tokenizer (`tokenizer.json`) of at most `vocabulary` tokens, learnt from texts.

    The alphabet is that of bytes, so that no text is unknown; pairs that occur once are not merged.
    Raises ConfigError for a vocabulary that has no room for the alphabet, DataError without any text.
    """
    from tokenizers import Tokenizer
    from tokenizers.decoders import ByteLevel as Decoder
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel

    check_vocabulary(vocabulary)
    split = ByteLevel(add_prefix_space=False)
    words: Counter[str] = Counter()
    for text in texts:
        # As captions are encoded: at the beginning of a caption a word has no space before it.
        words.update(word for word, _ in split.pre_tokenize_str(text.strip()))
    if not words:
        raise DataError("there is no caption to learn a vocabulary from: the train split has none")
    alphabet = sorted(ByteLevel.alphabet())
    merges = merges_of(words, vocabulary - len(alphabet) - len(_SPECIAL))
    tokens = dict.fromkeys([*_SPECIAL, *alphabet, *("".join(pair) for pair in merges)])
    made = Tokenizer(BPE({token: number for number, token in enumerate(tokens)}, merges))
    made.pre_tokenizer = split
    made.decoder = Decoder()
    made.add_special_tokens(list(_SPECIAL))
    content: str = made.to_str()
    return content


def check_vocabulary(vocabulary: int) -> None:
    """ConfigError for a vocabulary that has no room for the alphabet."""
    if vocabulary < _BYTES + len(_SPECIAL):
        raise ConfigError(
            f"model.net.vocabulary={vocabulary} is too small: the bytes and the marks of end and padding are "
            f"{_BYTES + len(_SPECIAL)} tokens; type model.net.vocabulary=2000"
        )


def tokenizer_of(content: str) -> PreTrainedTokenizerFast:
    """transformers' tokenizer of what `learn` returned; ConfigError where it is something else."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    try:
        made = Tokenizer.from_str(content)
    except Exception as error:  # tokenizers raises Exception itself
        raise ConfigError(
            f"model.net.tokenizer holds no tokenizer ({str(error).splitlines()[0]}): leave it out, and one "
            "is learnt from the training captions"
        ) from error
    absent = [token for token in _SPECIAL if made.token_to_id(token) is None]
    if absent:
        raise ConfigError(
            f"model.net.tokenizer lacks {' and '.join(absent)}: leave it out, and one is learnt from the "
            "training captions"
        )
    build: Any = PreTrainedTokenizerFast  # it has no annotations
    tokenizer: PreTrainedTokenizerFast = build(tokenizer_object=made, eos_token=END, pad_token=PAD)
    return tokenizer


def merges_of(words: Counter[str], most: int) -> list[Pair]:
    """At most so many merges, the most frequent pair first, of equals the one that sorts first.

    words: how often each is there, spelled in the alphabet. A pair that is there once is not merged.
    """
    spelled = [list(word) for word in sorted(words)]
    times = [words[word] for word in sorted(words)]
    counts: Counter[Pair] = Counter()
    places: defaultdict[Pair, set[int]] = defaultdict(set)
    for number, letters in enumerate(spelled):
        for pair in pairwise(letters):
            counts[pair] += times[number]
            places[pair].add(number)
    queue = [(-count, pair) for pair, count in counts.items()]
    heapq.heapify(queue)
    merges: list[Pair] = []
    while queue and len(merges) < most:
        count, pair = heapq.heappop(queue)
        if counts[pair] != -count:  # counted anew since; the new count is in the queue as well
            continue
        if -count < 2:
            break
        merges.append(pair)
        changed: set[Pair] = set()
        for number in sorted(places.pop(pair)):
            before = Counter(pairwise(spelled[number]))
            spelled[number] = _merged(spelled[number], pair)
            after = Counter(pairwise(spelled[number]))
            for one in before.keys() | after.keys():
                difference = (after[one] - before[one]) * times[number]
                if difference:
                    counts[one] += difference
                    changed.add(one)
                if after[one]:
                    places[one].add(number)
                elif one in places:
                    places[one].discard(number)
        counts.pop(pair, None)
        changed.discard(pair)
        for one in changed:
            if counts[one] > 0:
                heapq.heappush(queue, (-counts[one], one))
    return merges


def _merged(letters: list[str], pair: Pair) -> list[str]:
    """With every occurrence of the pair, from left to right, made one."""
    found: list[str] = []
    place = 0
    while place < len(letters):
        if place + 1 < len(letters) and (letters[place], letters[place + 1]) == pair:
            found.append("".join(pair))
            place += 2
        else:
            found.append(letters[place])
            place += 1
    return found
