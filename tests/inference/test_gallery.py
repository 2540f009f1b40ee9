"""A gallery file: searched exactly, read back as it was written, refused where it is damaged."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tapetum.errors import ConfigError, DataError
from tapetum.inference.gallery import IMAGES, Gallery, check_gallery, read_gallery, write_gallery

NAMES = ["cold", "hot", "warm"]


def vectors(count, dimension=8, seed=0):
    drawn = np.random.default_rng(seed).normal(size=(count, dimension)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def gallery(count=60, dimension=8, rule="knn", k=7):
    labels = np.random.default_rng(1).integers(0, 3, count)
    images = pa.table(
        {
            "path": [f"{number}, é.png" for number in range(count)],
            "class": pa.array([NAMES[label] for label in labels]).dictionary_encode(),
            "label": labels,
        },
    ).cast(IMAGES)
    about = {
        "format": 1, "run": "somewhere", "checkpoint": "best.ckpt", "sha256": "0" * 64, "radiometry": None,
        "dimension": dimension, "geometry": {}, "index": None,
        "decision": {"rule": rule, "k": k, "exclude": None},
    }  # fmt: skip
    return Gallery(images, vectors(count, dimension), about)


@pytest.fixture
def file(tmp_path):
    write_gallery(gallery(), tmp_path / "g.parquet")
    return tmp_path / "g.parquet"


def rewritten(file, *, about=None, **columns):
    """The file with other columns, or with other words about itself."""
    table = pq.read_table(file)
    for name, column in columns.items():
        table = table.set_column(table.column_names.index(name), name, column)
    metadata = dict(table.schema.metadata)
    if about is not None:
        said = json.loads(metadata[b"tapetum_gallery"])
        metadata[b"tapetum_gallery"] = json.dumps(about(said)).encode()
    pq.write_table(table.replace_schema_metadata(metadata), file)


def test_the_nearest_are_those_of_brute_force():
    searched, queries = gallery(), vectors(23, seed=2)
    similarity, rows = searched.search(queries, 9)
    every = queries.astype(np.float64) @ searched.embeddings.T.astype(np.float64)
    expected = np.argsort(-every, axis=1, kind="stable")[:, :9]
    assert (rows == expected).all()
    np.testing.assert_allclose(similarity, np.take_along_axis(every, expected, 1), atol=1e-6)
    assert (similarity.dtype, rows.dtype) == (np.float32, np.int64)


@pytest.mark.parametrize(
    ("rule", "k"), [("nearest", 10), ("knn", 1), ("knn", 7), ("knn", 500), ("centroid", 7)]
)
def test_a_query_gets_the_class_that_the_rule_gives_it(rule, k):
    searched, queries = gallery(rule=rule, k=k), vectors(50, seed=3)
    labels = searched.images["label"].to_numpy()
    if rule == "centroid":
        sums = np.stack([searched.embeddings[labels == label].sum(0) for label in range(3)]).astype(
            np.float64
        )
        expected = (queries @ (sums / np.linalg.norm(sums, axis=1, keepdims=True)).T).argmax(axis=1)
    else:
        order = np.argsort(-(queries @ searched.embeddings.T), axis=1, kind="stable")
        near = labels[order[:, : 1 if rule == "nearest" else k]]
        votes = np.stack([(near == label).sum(axis=1) for label in range(3)], axis=1)
        first = np.stack([(near == label).argmax(axis=1) for label in range(3)], axis=1)
        expected = np.lexsort((first, -votes))[:, 0]
    assert searched.classify(queries) == [NAMES[label] for label in expected]


def test_what_was_written_is_read(file):
    expected, found = gallery(), read_gallery(file)
    assert np.array_equal(found.embeddings, expected.embeddings)
    assert found.images.to_pylist() == expected.images.to_pylist()
    assert found.about == expected.about
    assert [one.name for one in file.parent.iterdir()] == ["g.parquet"]
    write_gallery(gallery(20), file)  # over another gallery
    assert len(read_gallery(file)) == 20


def test_nothing_asked_is_nothing_named():
    assert gallery().classify(np.empty((0, 8), np.float32)) == []


@pytest.mark.parametrize("k", [0, 61])
def test_more_neighbours_than_there_are_images_are_refused(k):
    with pytest.raises(ConfigError, match=f"k={k}: the gallery holds 60 images, so k is 1 to 60"):
        gallery().search(vectors(1), k)


def test_vectors_of_another_dimension_or_length_are_refused():
    with pytest.raises(
        DataError, match=r"queries of shape \[2, 5\], and the gallery has vectors of 8 numbers"
    ):
        gallery().search(vectors(2, 5))
    with pytest.raises(DataError, match=r"row 0 of the queries has length 3 instead of 1"):
        gallery().search(3 * vectors(2))


@pytest.mark.parametrize("place", [0.02, 0.3, 0.6])
def test_a_bit_that_is_wrong_is_noticed(file, place):
    data = bytearray(file.read_bytes())
    data[int(len(data) * place)] ^= 8
    file.write_bytes(data)
    with pytest.raises(DataError, match=r"g.parquet is no gallery, or damaged: .*tapetum gallery RUN"):
        read_gallery(file)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda file: file.unlink(), "there is no such gallery; make one with tapetum gallery RUN"),
        (lambda file: file.write_bytes(file.read_bytes()[:-300]), "is no gallery, or damaged"),
        (lambda file: file.write_bytes(b""), "is no gallery, or damaged"),
        (lambda file: file.write_text("path,class\n"), "is no gallery, or damaged"),
        (lambda file: pq.write_table(pa.table({"path": ["a"]}), file), "is a table, but no gallery"),
        (lambda file: rewritten(file, about=lambda _: 7), "it does not say its format, run"),
        (lambda file: rewritten(file, about=lambda a: a | {"format": 2}), "has gallery format 2"),
        (lambda file: rewritten(file, about=lambda a: a | {"dimension": 9}), "of 8 numbers, where it says 9"),
        (
            lambda file: rewritten(file, about=lambda a: {k: a[k] for k in a if k != "sha256"}),
            "it does not say its sha256",
        ),
        (
            lambda file: rewritten(file, path=pa.nulls(60, pa.string())),
            "images without path",
        ),
        (
            lambda file: rewritten(
                file, embedding=pa.FixedSizeListArray.from_arrays(pa.array([np.nan] * 480, pa.float32()), 8)
            ),
            "60 of its 60 embeddings have no length of 1, the first is row 0 with nan",
        ),
        (lambda file: rewritten(file, embedding=pa.array([[1.0]] * 60)), "its columns are .* list<"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_gallery_is_named(file, harm, said):
    harm(file)
    with pytest.raises(DataError, match=said):
        read_gallery(file)


def test_a_gallery_replaces_no_other_file(tmp_path):
    (tmp_path / "a.parquet").write_text("a stranger's")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "b.parquet")
    for name in ("a", "b"):
        before = (tmp_path / f"{name}.parquet").read_bytes()
        with pytest.raises(DataError, match="exists and is no gallery: choose another name"):
            write_gallery(gallery(), tmp_path / f"{name}.parquet")
        assert (tmp_path / f"{name}.parquet").read_bytes() == before
    with pytest.raises(ConfigError, match=r"a gallery is a .parquet file, such as .*c.parquet"):
        check_gallery(tmp_path / "c.csv")
    with pytest.raises(DataError, match="is a folder: name a file in it"):
        check_gallery(tmp_path)
    with pytest.raises(DataError, match="a gallery without images finds nothing"):
        write_gallery(Gallery(gallery().images[:0], vectors(0), gallery().about), tmp_path / "d.parquet")
    assert not (tmp_path / "d.parquet").exists()
