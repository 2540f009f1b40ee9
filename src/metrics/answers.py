"""Answers of a model to questions: which of the candidates was meant, and how near a free answer comes."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

from .captions import caption_scores

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalized(text: str) -> str:
    """Lower case, without punctuation and articles, single spaces: SQuAD's rule (Rajpurkar et al. 2016).

    A text that consists of articles keeps them, so that A is an answer like B; so does one of punctuation.
    """
    plain = " ".join(text.casefold().translate(_PUNCTUATION).split())
    return " ".join(_ARTICLES.sub(" ", plain).split()) or plain or " ".join(text.split())


def chosen(text: str, answers: Sequence[str]) -> int | None:
    """Which of the answers a text is, after `normalized`; None for anything else, however near it comes."""
    said = normalized(text)
    found = [number for number, answer in enumerate(answers) if normalized(answer) == said]
    return found[0] if found and said else None


def token_f1(text: str, answer: str) -> float:
    """F1 of the words of a text and the right answer, after `normalized` (SQuAD's); of two empty ones 1."""
    said, right = normalized(text).split(), normalized(answer).split()
    if not said or not right:
        return float(said == right)
    shared = sum((Counter(said) & Counter(right)).values())
    return 2 * shared / (len(said) + len(right))


def answer_scores(texts: Sequence[str], answers: Sequence[str]) -> dict[str, list[float]]:
    """`exact_match` (after `normalized`), `token_f1` and coco-caption's `rouge_l` of each text, in [0, 1]."""
    return {
        "exact_match": [float(normalized(a) == normalized(b)) for a, b in zip(texts, answers, strict=True)],
        "token_f1": [token_f1(a, b) for a, b in zip(texts, answers, strict=True)],
        "rouge_l": [float(one) for one in caption_scores(texts, [[one] for one in answers])["rouge_l"]],
    }


def answer_metrics(texts: Sequence[str], answers: Sequence[str]) -> dict[str, float]:
    """The means of `answer_scores`; NaN of none."""
    scores = answer_scores(texts, answers) if texts else {}
    names = ("exact_match", "token_f1", "rouge_l")
    return {name: sum(scores[name]) / len(texts) if texts else float("nan") for name in names}
