"""Predictions tables of retrieval for tests."""

import numpy as np
import pyarrow as pa


def embedding_table(vectors, labels, role="query", **columns):
    """A table as inference writes it; class names are letters, paths `<role>/<row>.png`."""
    vectors = np.asarray(vectors, np.float32)
    count, dimensions = vectors.shape
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    roles = [role] * count if isinstance(role, str) else role

    def text(name):
        return pa.array(columns.get(name, [None] * count), pa.string())

    table = {
        "index": pa.array(range(count), pa.int64()),
        "path": pa.array(columns.get("path", [f"{roles[row]}/{row}.png" for row in range(count)])),
        "split": pa.array(["test"] * count),
        "label": pa.array(np.asarray(labels, np.int64)),
        "class": pa.array(columns.get("names", [chr(97 + label % 26) for label in labels]), pa.string()),
        "role": pa.array(roles),
        "camera": text("camera"),
        "sequence": text("sequence"),
        "modality": text("modality"),
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), dimensions),
    }
    if "box" in columns:
        table["box"] = pa.array(columns["box"], pa.list_(pa.float32()))
    for name in ("root", "data"):
        if name in columns:
            table[name] = columns[name]
    return pa.table(table)


def searched(queries=80, gallery=150, classes=5, noise=0.8, seed=0, dimensions=16):
    """(queries, gallery): tables of clusters that overlap; the gallery lacks the last class."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(classes, dimensions)) / np.sqrt(dimensions)
    labels = random.integers(classes, size=queries), random.integers(classes - 1, size=gallery)
    return tuple(
        embedding_table(
            centres[of] + noise / np.sqrt(dimensions) * random.normal(size=(len(of), dimensions)),
            of,
            role,
            camera=random.choice(["a", "b", "c"], len(of)).tolist(),
        )
        for of, role in zip(labels, ("query", "gallery"), strict=True)
    )
