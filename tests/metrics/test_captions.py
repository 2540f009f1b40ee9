import csv
import io
import tarfile

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge
from tapetum.errors import DataError
from tapetum.metrics.captions import bleu, caption_metrics, caption_scores, cider_d, rouge_l, tokenized

WORDS = ["a", "man", "dog", "the", "red", "runs", "on", "grass", "-lrb-", "'s", "café"]
CAPTION = st.lists(st.sampled_from(WORDS), max_size=12)
IMAGES = st.lists(st.tuples(CAPTION, st.lists(CAPTION, min_size=1, max_size=5)), min_size=1, max_size=8)


def coco_caption(texts, known):
    """The figures of the corpus, and ROUGE-L and CIDEr-D of each image, by coco-caption's own code."""
    wanted = {number: [" ".join(reference) for reference in several] for number, several in enumerate(known)}
    written = {number: [" ".join(text)] for number, text in enumerate(texts)}
    bleus, _ = Bleu(4).compute_score(wanted, written, verbose=0)
    rouge, rouges = Rouge().compute_score(wanted, written)
    cider, ciders = Cider().compute_score(wanted, written)
    figures = {f"bleu_{order}": value for order, value in enumerate(bleus, start=1)}
    return figures | {"rouge_l": rouge, "cider": cider}, {"rouge_l": rouges, "cider": ciders}


@pytest.fixture(scope="module")
def flickr8k(shared_data):
    """(candidates, references): an image's first caption and the other four; every third has another.s."""
    archive = shared_data / "flickr8k.tar"
    if not archive.is_file():
        pytest.skip(f"no {archive}")
    with tarfile.open(archive) as tar:
        text = tar.extractfile("flickr8k/captions.txt").read().decode()
    captions = [row[1] for row in csv.reader(io.StringIO(text))][1:]
    candidates, references = captions[::5], [captions[n + 1 : n + 5] for n in range(0, len(captions), 5)]
    return [candidates[n - n % 3 // 2] for n in range(len(candidates))], references


@settings(deadline=None, max_examples=100)
@given(IMAGES)
def test_equals_coco_caption_on_the_same_tokens(images):
    texts, known = [text for text, _ in images], [several for _, several in images]
    assume(
        any(word for several in known for words in several for word in words)
    )  # coco-caption fails without

    figures, scores = coco_caption(texts, known)

    assert bleu(texts, known) == pytest.approx([figures[f"bleu_{order}"] for order in (1, 2, 3, 4)], abs=1e-9)
    np.testing.assert_allclose(rouge_l(texts, known), scores["rouge_l"], atol=1e-9, rtol=0)
    np.testing.assert_allclose(cider_d(texts, known), scores["cider"], atol=1e-9, rtol=0)


def test_equals_coco_caption_on_real_captions(flickr8k):
    candidates, references = (part[:500] for part in flickr8k)

    figures, scores = coco_caption(*tokenized(candidates, references))

    assert caption_metrics(candidates, references) == pytest.approx(figures, abs=1e-9)
    for name, values in caption_scores(candidates, references).items():
        np.testing.assert_allclose(values, scores[name], atol=1e-9, rtol=0)
        assert len(set(values.round(3))) > 100  # these captions tell images apart


def test_a_caption_equal_to_a_reference_is_perfect():
    candidates = ["A red square on a white background.", "Two blue circles, side by side!", "a dog runs"]
    references = [["a red square on a white background"], ["two blue circles side by side"], ["A dog runs."]]

    figures = caption_metrics(candidates, references)

    assert [figures[f"bleu_{order}"] for order in (1, 2, 3, 4)] == pytest.approx([1, 1, 1, 1])
    assert figures["rouge_l"] == pytest.approx(1)
    # ten times the share of n-gram lengths that a caption has: of 1 to 4 words, the last has three
    assert caption_scores(candidates, references)["cider"] == pytest.approx([10, 10, 7.5])


def test_rouge_l_takes_precision_and_recall_from_different_references():
    candidate = "a b c d"
    references = ["a b c d e f g h", "c d"]  # all of the candidate is in the first, all of the second in it

    assert caption_scores([candidate], [references])["rouge_l"] == pytest.approx([1])
    precision, recall = 1, 4 / 8
    alone = (1 + 1.2**2) * precision * recall / (recall + 1.2**2 * precision)
    assert caption_scores([candidate], [references[:1]])["rouge_l"] == pytest.approx([alone])


@pytest.mark.parametrize("nothing", ["", "   ", "...", ".,!", "😀", "\u200b"])
def test_an_empty_caption_scores_nothing_and_spoils_nothing(nothing):
    references = [["a dog runs on the grass"], ["a man in a red hat sits"], ["two birds fly"]]
    others = ["a dog runs", "a man sits down"]

    scores = caption_scores([*others, nothing], references)
    figures = caption_metrics([nothing], references[:1])

    assert scores["rouge_l"][2] == scores["cider"][2] == 0
    assert (scores["rouge_l"][:2] > 0).all()
    assert max(figures.values()) == pytest.approx(0, abs=1e-5)
    assert np.isfinite([*scores["cider"], *figures.values()]).all()


def test_references_of_punctuation_only_are_read():
    figures = caption_metrics(["a dog", "..."], [["!!.", "a dog"], ["...", "."]])

    assert np.isfinite(list(figures.values())).all()
    assert caption_scores(["a dog"], [["..."]])["rouge_l"] == 0


def test_one_image_has_no_cider_since_no_word_is_rare():
    assert caption_metrics(["a dog"], [["a dog"]])["cider"] == 0


def test_a_reference_given_twice_changes_nothing_where_all_are():
    candidates, references = ["a dog runs", "a cat sits"], [["the dog runs"], ["the cat sleeps", "one cat"]]

    assert caption_metrics(candidates, [several * 2 for several in references]) == pytest.approx(
        caption_metrics(candidates, references)
    )


def test_the_order_of_images_and_of_references_does_not_matter(flickr8k):
    candidates, references = (part[:200] for part in flickr8k)
    shuffled = np.random.default_rng(0).permutation(200)

    scores = caption_scores(candidates, references)
    other = caption_scores([candidates[n] for n in shuffled], [references[n][::-1] for n in shuffled])

    for name, values in scores.items():
        np.testing.assert_allclose(other[name], values[shuffled], atol=1e-12)


def test_the_image_without_a_reference_is_named():
    with pytest.raises(DataError, match=r"image 1 \(candidate 'a cat'\) has no reference caption"):
        caption_metrics(["a dog", "a cat"], [["a dog"], []])


def test_no_image_at_all_is_an_error():
    with pytest.raises(DataError, match="no caption to score"):
        caption_metrics([], [])


@pytest.mark.parametrize(
    ("candidates", "references", "message"),
    [
        (["a dog"], [["a dog"], ["a cat"]], "1 candidates, but references of 2 images"),
        (["a dog", "a cat"], ["a dog", "a cat"], "references a list of lists"),
        ("a dog", [["a"]] * 5, "candidates are a list of captions"),
    ],
)
def test_lists_that_do_not_fit_are_refused(candidates, references, message):
    with pytest.raises(ValueError, match=message):
        caption_scores(candidates, references)
