import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tapetum.errors import DataError, TrainingError
from tapetum.metrics.neighbours import CHUNK_BYTES, junk_keys, nearest, pack, unpack
from torch.nn.functional import normalize


def units(rows, dimensions=8, seed=0):
    return normalize(torch.randn(rows, dimensions, generator=torch.manual_seed(seed)))


def brute_force(queries, gallery, k, keys=None):
    """(similarity float64, rows) by a loop: most similar first, of equals the lower row."""
    similarity = queries.double().numpy() @ gallery.double().numpy().T
    rows = []
    for number, values in enumerate(similarity):
        left = [
            row
            for row in range(len(values))
            if keys is None or keys[0][number] < 0 or keys[0][number] != keys[1][row]
        ]
        rows.append(sorted(left, key=lambda row: (-values[row], row))[:k])
    return similarity, rows


@pytest.mark.parametrize(
    ("queries", "gallery", "k"), [(1, 1, 1), (3, 70, 5), (40, 300, 10), (17, 65, 65), (5, 9, 9)]
)
def test_neighbours_are_those_of_brute_force(queries, gallery, k):
    q, g = units(queries), units(gallery, seed=1)

    similarity, rows = nearest(q, g, k)

    expected, order = brute_force(q, g, k)
    assert rows.tolist() == order
    assert similarity.dtype == torch.float32
    assert rows.dtype == torch.int64
    np.testing.assert_allclose(similarity, np.take_along_axis(expected, rows.numpy(), 1), atol=1e-6)


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 40),
    st.integers(1, 400),
    st.integers(1, 30),
    st.sampled_from([1, 4096, 40_000]),
    st.integers(0, 2**20),
)
def test_chunks_change_nothing_not_even_among_equal_rows(queries, gallery, k, chunk_bytes, seed):
    # three dimensions rounded to a coarse grid: most rows are as similar as many others
    q = normalize(torch.randn(queries, 3, generator=torch.manual_seed(seed)).round() + 0.5)
    g = normalize(torch.randn(gallery, 3).round() + 0.5)

    whole = nearest(q, g, k, chunk_bytes=2**30)
    parts = nearest(q, g, k, chunk_bytes=chunk_bytes)

    assert torch.equal(whole[0], parts[0])
    assert torch.equal(whole[1], parts[1])
    kept = min(k, gallery)
    for values, rows in zip(whole[0][:, :kept].tolist(), whole[1][:, :kept].tolist(), strict=True):
        assert list(zip(values, rows, strict=True)) == sorted(
            zip(values, rows, strict=True), key=lambda pair: (-pair[0], pair[1])
        )
        assert len(set(rows)) == kept


def test_equal_rows_stand_in_their_order_and_the_first_of_them_are_kept():
    one = units(1, 512)

    similarity, rows = nearest(one.expand(3, -1), one.expand(1000, -1), 4, chunk_bytes=64 * 16 * 4)

    assert rows.tolist() == [[0, 1, 2, 3]] * 3
    assert len(similarity.unique()) == 1


def test_rising_similarity_replaces_all_that_was_found_in_every_chunk():
    angle = torch.linspace(3.0, 0.0, 2000)
    gallery = torch.stack([angle.cos(), angle.sin()], dim=1)

    _, rows = nearest(torch.tensor([[1.0, 0.0]]), gallery, 3, chunk_bytes=64 * 16 * 4)

    assert rows.tolist() == [[1999, 1998, 1997]]


def test_rows_of_the_same_key_are_left_out_and_a_negative_key_leaves_nothing_out():
    q, g = units(30), units(200, seed=1)
    keys = (torch.arange(30) % 4 - 1, torch.arange(200) % 5 - 1)

    _, rows = nearest(q, g, 7, exclude=keys, chunk_bytes=64 * 32 * 4)

    assert rows.tolist() == brute_force(q, g, 7, (keys[0].tolist(), keys[1].tolist()))[1]


def test_fewer_rows_than_asked_for_are_filled_with_no_row():
    q, g = units(2), units(3, seed=1)

    similarity, rows = nearest(q, g, 5, exclude=(torch.tensor([0, 1]), torch.tensor([0, 0, 2])))

    assert (rows >= 0).sum(dim=1).tolist() == [1, 3]
    assert rows[0].tolist() == [2, -1, -1, -1, -1]
    assert similarity[0, 1:].tolist() == [-math.inf] * 4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_are_computed_in_float32(dtype):
    q, g = units(5, 64).to(dtype), units(200, 64, seed=1).to(dtype)

    similarity, rows = nearest(q, g, 10)

    expected = nearest(q.float(), g.float(), 10)
    assert torch.equal(rows, expected[1])
    assert torch.equal(similarity, expected[0])


def test_the_precision_of_training_changes_nothing_and_stays_as_it_was():
    q, g = units(32, 64), units(200, 64, seed=1)
    expected = nearest(q, g, 10)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = nearest(q, g, 10)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])


def test_embeddings_that_training_still_holds_are_searched_too():
    q, g = units(20, 64).requires_grad_(), units(201, 64, seed=1).requires_grad_()

    similarity, rows = nearest(q, g, 10)

    assert not similarity.requires_grad
    assert torch.equal(rows, nearest(q.detach(), g.detach(), 10)[1])


def test_memory_is_that_of_a_few_chunks_however_odd_the_gallery():
    gallery = units(65_537, 256).half()
    nearest(units(1, 256), gallery[:100], 3)
    with torch.profiler.profile(profile_memory=True) as profile:
        nearest(units(1, 256).half(), gallery, 3, chunk_bytes=2**20)

    allocated = [event.cpu_memory_usage for event in profile.events()]

    assert max(allocated) < 2 * CHUNK_BYTES  # a copy of the gallery in float32 takes 67 MB


def test_junk_is_the_same_identity_in_the_same_group():
    labels = torch.tensor([0, 0, 1, 5]), torch.tensor([0, 0, 1, 1, 5])
    groups = torch.tensor([0, 2, 0, -1]), torch.tensor([0, 1, 0, 2, -1])

    queries, gallery = junk_keys(labels, groups)

    same = (queries[:, None] == gallery) & (queries[:, None] >= 0)
    assert same.tolist() == [
        [True, False, False, False, False],
        [False, False, False, False, False],
        [False, False, True, False, False],
        [False, False, False, False, False],
    ]


@settings(max_examples=50)
@given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=20))
def test_keys_sort_by_similarity_then_by_the_lower_row_and_are_read_back(values):
    similarity, rows = torch.tensor(values, dtype=torch.float32), torch.arange(len(values))

    keys = pack(similarity, rows).sort(descending=True).values

    found, order = unpack(keys)
    assert order.tolist() == sorted(range(len(values)), key=lambda row: (-float(similarity[row]), row))
    assert found.tolist() == similarity[order].tolist()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("side", ["queries", "gallery"])
def test_an_embedding_that_is_not_finite_is_named_by_its_row(side, value):
    sides = {"queries": units(4), "gallery": units(9)}
    sides[side][3, 2] = value
    with pytest.raises(TrainingError, match=rf"1 of {len(sides[side])} embeddings of the {side}.*row 3"):
        nearest(sides["queries"], sides["gallery"], 1)


def test_vectors_that_are_not_of_length_one_are_named_by_their_row():
    gallery = units(9)
    gallery[5] *= 3
    with pytest.raises(DataError, match=r"row 5 of the gallery has length 3 instead of 1 \(1 of 9 rows\)"):
        nearest(units(4), gallery, 1)
    with pytest.raises(DataError, match=r"row 0 of the queries has length 0 instead of 1"):
        nearest(torch.zeros(4, 8), units(9), 1)


@pytest.mark.parametrize(("queries", "gallery"), [(0, 3), (3, 0)])
def test_an_empty_side_is_an_error(queries, gallery):
    with pytest.raises(DataError, match=r"(queries|gallery) \[0, 8\]: there is no vector"):
        nearest(units(queries), units(gallery), 1)


@pytest.mark.parametrize(
    ("queries", "gallery", "k", "message"),
    [
        (units(3), units(3, 7), 1, "queries of 8 and a gallery of 7 dimensions"),
        (units(3)[0], units(3), 1, r"queries must be float \[rows, D\]"),
        (units(3), torch.ones(3, 8, dtype=torch.int64), 1, r"gallery must be float \[rows, D\]"),
        (units(3), units(3), 0, "k=0"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(queries, gallery, k, message):
    with pytest.raises(ValueError, match=message):
        nearest(queries, gallery, k)


def test_keys_of_another_length_are_refused():
    with pytest.raises(ValueError, match=r"keys of shapes \[\[3\], \[4\]\] for 3 queries"):
        nearest(units(3), units(5), 1, exclude=(torch.zeros(3).long(), torch.zeros(4).long()))
