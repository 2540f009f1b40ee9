import math

import numpy as np
import pytest
import timm
import torch
from tapetum.errors import DataError, TrainingError
from tapetum.metrics.embedding_health import embedding_health
from torch.nn.functional import normalize


def units(rows, dimensions=32, seed=0):
    return normalize(torch.randn(rows, dimensions, generator=torch.manual_seed(seed)))


def test_every_figure_is_that_of_all_pairs_and_of_a_singular_value_decomposition():
    x = units(60, 8) * torch.linspace(1, 2, 60)[:, None]
    x[:, 5] = 0
    labels = torch.arange(60) % 4

    found = embedding_health(x, labels)

    rows = normalize(x.double()).numpy()
    cosine, same = rows @ rows.T, (labels[:, None] == labels).numpy()
    other = ~np.eye(60, dtype=bool)
    singular = np.linalg.svd(rows - rows.mean(axis=0), compute_uv=False)[:-1]  # one dimension is constant
    share = singular / singular.sum()
    assert found.norm == pytest.approx(float(x.double().norm(dim=1).mean()))
    assert found.std == pytest.approx(rows.std(axis=0).mean())
    assert found.spread == pytest.approx(np.sqrt(rows.var(axis=0).sum()))
    assert found.mean_cosine == pytest.approx(cosine[other].mean())
    assert found.effective_rank == pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=1e-6)
    assert found.constant_dimensions == 1 / 8
    assert found.intra == pytest.approx(1 - cosine[same & other].mean())
    assert found.inter == pytest.approx(1 - cosine[~same].mean())
    assert not found.collapsed
    assert found.reason == ""


def test_figures_are_flat_and_the_same_however_many_rows_are_looked_at_at_once(monkeypatch):
    x, labels = units(50), torch.arange(50) % 3
    whole = embedding_health(x, labels).figures()
    monkeypatch.setattr("tapetum.metrics.embedding_health._ROWS", 7)

    parts = embedding_health(x, labels).figures()

    assert parts == pytest.approx(whole, abs=1e-12)
    assert parts["embedding/collapsed"] == 0.0
    assert {
        "embedding/mean_cosine",
        "embedding/effective_rank",
        "embedding/std",
        "embedding/norm",
    } < parts.keys()


@pytest.mark.parametrize("directions", [1, 3, 8])
def test_the_effective_rank_of_equally_strong_directions_is_their_number(directions):
    axes = torch.eye(16)[:directions]

    found = embedding_health(torch.cat([axes, -axes]))

    assert found.effective_rank == pytest.approx(directions)
    assert found.constant_dimensions == 1 - directions / 16


def test_random_unit_vectors_fill_the_sphere():
    found = embedding_health(units(4000, 64))

    assert found.std == pytest.approx(1 / math.sqrt(64), rel=0.01)
    assert found.effective_rank > 63
    assert found.mean_cosine == pytest.approx(0, abs=0.001)
    assert not found.collapsed


@pytest.mark.parametrize("noise", [0.0, 1e-5, 1e-4, 3e-4])
@pytest.mark.parametrize("dimensions", [128, 512])
def test_vectors_that_are_almost_equal_have_collapsed(noise, dimensions):
    """3e-4 is the deviation that batch-hard with margin 0.3 ended with on the solar modules."""
    x = normalize(units(1, dimensions) + noise * torch.randn(500, dimensions, generator=torch.manual_seed(1)))

    found = embedding_health(x)

    assert found.collapsed
    assert found.std == pytest.approx(noise, rel=0.05, abs=1e-7)
    assert "collapsed to almost one point" in found.reason


def test_a_small_round_ball_has_collapsed_but_a_narrow_cone_with_a_shape_has_not():
    generator = torch.manual_seed(0)
    noise = torch.randn(800, 128, generator=generator) / math.sqrt(128)
    strength = torch.logspace(0, -3, 128)  # few directions hold nearly all there is
    shape = noise * strength / strength.square().mean().sqrt()

    ball, cone = (embedding_health(normalize(units(1, 128) + 0.04 * part)) for part in (noise, shape))

    assert ball.spread == pytest.approx(0.04, rel=0.05)
    assert cone.spread == pytest.approx(0.04, rel=0.05)
    assert ball.collapsed
    assert not cone.collapsed
    assert embedding_health(normalize(units(1, 128) + 0.01 * shape)).collapsed  # a point, whatever its shape


def test_few_rows_are_judged_by_the_directions_that_they_can_have():
    noise = torch.randn(30, 512, generator=torch.manual_seed(0)) / math.sqrt(512)

    found = embedding_health(normalize(units(1, 512) + 0.03 * noise))

    assert found.effective_rank < 30
    assert found.collapsed


def test_equal_vectors_have_no_direction():
    found = embedding_health(torch.ones(10, 4) / 2)

    assert found.collapsed
    assert found.effective_rank == 0
    assert found.constant_dimensions == 1
    assert found.mean_cosine == pytest.approx(1)


def test_a_network_that_was_never_trained_forms_a_cone_but_has_not_collapsed():
    generator = torch.manual_seed(0)
    frames = torch.rand(200, 1, 5, 5, generator=generator)
    images = torch.nn.functional.interpolate(frames, (40, 40), mode="bilinear")
    net = timm.create_model("resnet10t", pretrained=False, in_chans=1, num_classes=0).eval()
    head = torch.nn.Linear(net.num_features, 128)
    with torch.no_grad():
        x = normalize(head(net((images - 0.5) / 0.25)))

    found = embedding_health(x)

    assert found.mean_cosine > 0.9
    assert not found.collapsed


def test_classes_pulled_together_show_in_intra_and_inter():
    labels = torch.arange(100) % 5
    x = normalize(torch.eye(8)[labels] + 0.05 * units(100, 8))

    found = embedding_health(x, labels)

    assert found.intra < 0.01
    assert found.inter > 0.9
    assert math.isnan(embedding_health(x).intra)
    assert math.isnan(embedding_health(x, torch.zeros(100).long()).inter)
    assert math.isnan(embedding_health(x, torch.arange(100)).intra)


def test_half_precision_is_no_collapse_and_no_error():
    x = units(300, 64)

    found, expected = embedding_health(x.bfloat16()), embedding_health(x)

    assert found.norm == pytest.approx(1, abs=0.01)
    assert found.std == pytest.approx(expected.std, rel=0.01)


def test_bad_embeddings_are_refused():
    x = units(5)
    x[3, 1] = math.inf
    with pytest.raises(TrainingError, match="1 of 5 embeddings are not finite, the first is row 3"):
        embedding_health(x)
    with pytest.raises(DataError, match=r"embeddings \[1, 32\]: at least two rows"):
        embedding_health(units(1))
    with pytest.raises(ValueError, match=r"embeddings must be float \[N, D\]"):
        embedding_health(torch.zeros(3))
    with pytest.raises(ValueError, match=r"labels \[4\] of 5 embeddings"):
        embedding_health(units(5), torch.zeros(4).long())
