"""BLEU, ROUGE-L and CIDEr-D of captions with several references, as coco-caption defines them.

All figures lie in [0, 1], except CIDEr-D, which is what coco-caption returns: 1.13 is the "113" of a paper's
table. All depend on the number of references (ROUGE-L by a factor of two between one and five): say it beside
them. METEOR and SPICE exist in Java only: `captions_java`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from .ptb import tokenize

__all__ = ["bleu", "caption_metrics", "caption_scores", "cider_d", "rouge_l", "tokenize", "tokenized"]

ORDERS = 4
"""N-grams of 1 to 4 words."""
BETA = 1.2
"""ROUGE-L: recall counts this much more than precision."""
SIGMA = 6.0
_NOTHING = 1e-9
"""CIDEr-D: the width, in words, of the penalty on a caption that is longer or shorter than a reference."""

Caption = Sequence[str]
"""The tokens of one caption."""
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def caption_metrics(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """`bleu_1` to `bleu_4`, `rouge_l` and `cider` of one caption an image, against that image's references.

    BLEU is of the whole corpus; the others are means of `caption_scores`. CIDEr-D weighs words by how few
    images' references have them: for one image it is 0, whatever the caption, and for a few dozen it is no
    figure to compare with others.
    Raises DataError where there is no image, or an image without references; ValueError for lists that don't
    fit each other.
    """
    texts, known = tokenized(candidates, references)
    # Where nothing matches, coco-caption's guard against a division by 0 leaves 1e-12 or so.
    orders = enumerate(bleu(texts, known), start=1)
    figures = {f"bleu_{order}": value if value > _NOTHING else 0.0 for order, value in orders}
    means = {name: float(values.mean()) for name, values in _scores(texts, known).items()}
    return figures | means


def caption_scores(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, Floats]:
    """`rouge_l` and `cider` of each image, float64 [N]; arguments and errors as of `caption_metrics`."""
    return _scores(*tokenized(candidates, references))


def tokenized(
    candidates: Sequence[str], references: Sequence[Sequence[str]]
) -> tuple[list[Caption], list[list[Caption]]]:
    """The tokens of candidates and references; errors as of `caption_metrics`."""
    if isinstance(candidates, str) or any(isinstance(several, str) for several in references):
        raise ValueError("candidates are a list of captions, references a list of lists: one list an image")
    if len(candidates) != len(references):
        raise ValueError(f"{len(candidates)} candidates, but references of {len(references)} images")
    if not candidates:
        raise DataError("there is no caption to score: give at least one image")
    for number, (text, several) in enumerate(zip(candidates, references, strict=True)):
        if not several:
            raise DataError(
                f"image {number} (candidate {text!r}) has no reference caption: give it one, or leave it out"
            )
    return (
        [tokenize(text) for text in candidates],
        [[tokenize(text) for text in several] for several in references],
    )


def bleu(candidates: Sequence[Caption], references: Sequence[Sequence[Caption]]) -> list[float]:
    """BLEU-1 to BLEU-4 of the corpus, from tokens, each in [0, 1] (Papineni et al., ACL 2002).

    The brevity penalty compares with each image's reference nearest in length, the shorter of two as near.
    Nothing is smoothed: without a 4-gram in common BLEU-4 is 0, but for the tiny constants of coco-caption.
    """
    corpus = _corpus(candidates, references)
    matches, written = np.zeros(ORDERS), np.zeros(ORDERS)
    for order, grams in enumerate(_grams(corpus)):
        mine = grams.counts[: grams.candidates]
        most = np.zeros_like(mine)
        np.maximum.at(most, grams.ours, grams.counts[grams.theirs])
        matches[order], written[order] = np.minimum(mine, most).sum(), mine.sum()
    nearest = sum(
        min((abs(len(reference) - len(text)), len(reference)) for reference in several)[1]
        for text, several in zip(candidates, references, strict=True)
    )
    precision = np.cumprod((matches + 1e-15) / (written + 1e-9)) ** (1 / np.arange(1, ORDERS + 1))
    ratio = (written[0] + 1e-15) / (nearest + 1e-9)
    penalty = np.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    return [float(value) for value in precision * penalty]


def rouge_l(candidates: Sequence[Caption], references: Sequence[Sequence[Caption]]) -> Floats:
    """ROUGE-L of each image, from tokens, float64 [N] in [0, 1] (Lin, ACL workshop 2004).

    The F-measure with beta 1.2 of the best precision and the best recall that any reference gives, which need
    not be the same one. The mean over images is the figure of the corpus.
    """
    scores = np.zeros(len(candidates))
    for number, (text, several) in enumerate(zip(candidates, references, strict=True)):
        words = text or [""]  # coco-caption splits an empty caption into one empty word
        places: dict[str, int] = {}
        for place, word in enumerate(words):
            places[word] = places.get(word, 0) | 1 << place
        common = [_common(places, len(words), reference or [""]) for reference in several]
        precision = max(common) / len(words)
        recall = max(
            shared / max(len(reference), 1) for shared, reference in zip(common, several, strict=True)
        )
        if recall:
            scores[number] = (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)
    return scores


def cider_d(candidates: Sequence[Caption], references: Sequence[Sequence[Caption]]) -> Floats:
    """CIDEr-D of each image, from tokens, float64 [N] in [0, 10] (Vedantam et al., CVPR 2015, section 5).

    Cosines of clipped tf-idf vectors of n-grams, averaged over n and the references, times a Gaussian of the
    difference in length. The document frequency of an n-gram is the number of images whose references have
    it. The mean over images is the figure of the corpus.
    """
    corpus = _corpus(candidates, references)
    owners, reference_owners = corpus.owners, corpus.owners[corpus.images :]
    cosines = np.zeros(len(owners))
    for grams in _grams(corpus):
        theirs = slice(grams.candidates, None)
        documents = np.unique(owners[grams.sentences[theirs]] * grams.kinds + grams.ids[theirs]) % grams.kinds
        frequency = np.bincount(documents, minlength=grams.kinds)
        weights = grams.counts * (np.log(corpus.images) - np.log(np.maximum(frequency, 1)))[grams.ids]
        norms = np.sqrt(np.bincount(grams.sentences, weights**2, minlength=len(owners)))
        shared = np.minimum(weights[grams.ours], weights[grams.theirs]) * weights[grams.theirs]
        # Without an n-gram in common numpy counts in integers, whatever the weights.
        dots = np.bincount(grams.sentences[grams.theirs], shared, minlength=len(owners)).astype(np.float64)
        scale = norms * norms[owners]
        cosines += np.divide(dots, scale, out=np.zeros_like(dots), where=scale > 0)
    # coco-caption takes the number of word pairs for the length
    lengths = np.maximum(np.bincount(corpus.sentences, minlength=len(owners)) - 1, 0)
    likeness = cosines / ORDERS * np.exp(-((lengths - lengths[owners]) ** 2) / (2 * SIGMA**2))
    total = np.bincount(reference_owners, likeness[corpus.images :], minlength=corpus.images)
    return 10 * total / np.bincount(reference_owners, minlength=corpus.images)


def _scores(candidates: Sequence[Caption], references: Sequence[Sequence[Caption]]) -> dict[str, Floats]:
    return {"rouge_l": rouge_l(candidates, references), "cider": cider_d(candidates, references)}


def _common(places: dict[str, int], length: int, reference: Caption) -> int:
    """Length of the longest common subsequence, a bit a word (Crochemore et al., IPL 2001; Hyyrö, 2004)."""
    full = (1 << length) - 1
    row = full
    for word in reference:
        met = row & places.get(word, 0)
        row = (row + met | row - met) & full
    return length - row.bit_count()


@dataclass(frozen=True)
class _Corpus:
    """All captions as numbers: the candidates, one an image, then every reference.

    words, sentences: int64 [W], each word and the caption that it stands in. owners: int64 [S], the image of
    each caption.
    """

    words: Integers
    sentences: Integers
    owners: Integers
    images: int
    vocabulary: int


@dataclass(frozen=True)
class _Grams:
    """The n-grams of one order, an entry for each caption and each kind of n-gram in it; int64 [E].

    The first `candidates` entries are of candidates. `ours`, `theirs`: int64 [M], the entries of a candidate
    and of a reference of the same image that are the same n-gram. kinds: more than any id.
    """

    sentences: Integers
    ids: Integers
    counts: Integers
    kinds: int
    candidates: int
    ours: Integers
    theirs: Integers


def _corpus(candidates: Sequence[Caption], references: Sequence[Sequence[Caption]]) -> _Corpus:
    captions = [*candidates, *chain.from_iterable(references)]
    vocabulary: dict[str, int] = {}
    words = [vocabulary.setdefault(word, len(vocabulary)) for word in chain.from_iterable(captions)]
    images = np.arange(len(candidates))
    return _Corpus(
        np.array(words, dtype=np.int64),
        np.repeat(np.arange(len(captions)), [len(caption) for caption in captions]),
        np.concatenate([images, np.repeat(images, [len(several) for several in references])]),
        len(candidates),
        len(vocabulary),
    )


def _grams(corpus: _Corpus) -> Iterator[_Grams]:
    ids, starts = corpus.words, np.arange(len(corpus.words))
    for order in range(ORDERS):
        if order:
            whole = starts[starts + order < len(corpus.words)]
            whole = whole[corpus.sentences[whole] == corpus.sentences[whole + order]]
            longer = np.zeros(len(corpus.words), dtype=np.int64)
            pairs = ids[whole] * corpus.vocabulary + corpus.words[whole + order]
            longer[whole] = np.unique(pairs, return_inverse=True)[1]
            ids, starts = longer, whole
        kinds = int(ids[starts].max()) + 1 if len(starts) else 1
        pairs, counts = np.unique(corpus.sentences[starts] * kinds + ids[starts], return_counts=True)
        sentences, kind = np.divmod(pairs, kinds)
        mine = int(np.searchsorted(sentences, corpus.images))
        wanted = corpus.owners[sentences[mine:]] * kinds + kind[mine:]
        place = np.searchsorted(pairs[:mine], wanted)
        found = place < mine
        found[found] = pairs[place[found]] == wanted[found]
        theirs = np.flatnonzero(found) + mine
        yield _Grams(sentences, kind, counts, kinds, mine, place[found], theirs)
