import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tapetum.metrics.clip_score import clip_score, ref_clip_score


def cosine(one, other):
    return float(np.dot(one, other) / (np.linalg.norm(one) * np.linalg.norm(other)))


@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(2, 8))
def test_equals_the_formulas_of_the_paper_one_image_at_a_time(seed, count, width):
    random = np.random.default_rng(seed)
    images, captions = random.normal(size=(2, count, width))
    owners = random.permutation(np.concatenate([np.arange(count), random.integers(count, size=5)]))
    references = random.normal(size=(len(owners), width))

    plain = clip_score(torch.tensor(images), torch.tensor(captions))
    found = ref_clip_score(*map(torch.tensor, (images, captions, references, owners)))

    for number in range(count):
        score = 2.5 * max(cosine(images[number], captions[number]), 0)
        assert float(plain[number]) == pytest.approx(score, abs=1e-5)
        near = max([0, *(cosine(captions[number], r) for r in references[owners == number])])
        mean = 2 / (1 / score + 1 / near) if score > 0 and near > 0 else 0
        assert float(found[number]) == pytest.approx(mean, abs=1e-4)


def test_shapes_that_do_not_fit_are_refused():
    images = torch.randn(3, 4)

    with pytest.raises(ValueError, match=r"images \[3, 4\] and captions \[2, 4\]"):
        clip_score(images, images[:2])
    with pytest.raises(ValueError, match=r"references \[3, 4\] and owners \[2\]"):
        ref_clip_score(images, images, images, torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"without: \[1\]"):
        ref_clip_score(images, images, images, torch.tensor([0, 0, 2]))
    with pytest.raises(ValueError, match="owners name the image, 0 to 2"):
        ref_clip_score(images, images, torch.randn(4, 4), torch.tensor([0, 1, 2, 3]))
