import base64
import io
import re
import struct

import numpy as np
import pytest
from PIL import Image
from rich.text import Text
from tapetum.errors import ImageError
from tapetum.evaluation.retrieval import evaluate, intervals, judge
from tapetum.reports import retrieval_plots as plots
from tapetum.reports import retrieval_sections as sections
from tapetum.reports.compare import RunSummary, comparison
from tapetum.reports.comparison_page import write_comparison
from tapetum.reports.retrieval import write_retrieval_report
from tapetum.reports.retrieval_strips import FRAME, SIDE, strips
from tapetum.reports.retrieval_terminal import warnings, without_classes, worst_classes
from tapetum.reports.run import RunReport
from tapetum.tasks.retrieval import TASK

from evaluation.embedding_tables import embedding_table, searched
from reports.pages import printed, read

DECISION = {"rule": "knn", "k": 5, "exclude": None}
CONFIG = {
    "task": "retrieval",
    "name": "thermal",
    "seed": 1,
    "model": {"fit": True, "decision": DECISION},
    "data": {"root": "data/x", "radiometry": None},
    "trainer": {"max_epochs": 3},
    "train": {"monitor": "val/map_at_r", "mode": "max"},
}
HISTORY = [
    {
        "epoch": epoch,
        "step": 10 * epoch + 9,
        "train/loss": 1 / (epoch + 1),
        "val/map_at_r": 0.5 + 0.1 * epoch,
        "val/embedding/spread": 0.3 + 0.1 * epoch,
    }
    for epoch in range(3)
]


def load_image(path):
    """Grey by the path, so that a thumbnail tells whose it is."""
    return np.full((40, 24), sum(path.encode()) % 256, np.uint8)


def report(**changes):
    values = {
        "title": "a search",
        "config": CONFIG,
        "environment": {},
        "command": "python train.py task=retrieval",
        "history": HISTORY,
        "metrics": {},
        "predictions": {},
        "monitor": "val/map_at_r",
        "mode": "max",
        "load_image": load_image,
    }
    return RunReport(**(values | changes))


@pytest.fixture
def undrawn(monkeypatch):
    """Pictures of one pixel, for tests that look at the words only."""
    buffer = io.BytesIO()
    Image.new("L", (1, 1)).save(buffer, "png")
    for module in ("retrieval_plots", "training_curve"):
        monkeypatch.setattr(f"tapetum.reports.{module}.render", lambda draw, size: buffer.getvalue())


@pytest.fixture(scope="module")
def tables():
    test, gallery = searched(160, 200, classes=5, noise=1.6)
    val, _ = searched(80, 10, classes=5, noise=1.6, seed=1)
    unlike = [f"val/{row}.png" for row in range(len(val))]
    return {"gallery": gallery, "val": val.set_column(1, "path", [unlike]), "test": test}


@pytest.fixture(scope="module")
def full(tables, tmp_path_factory):
    source = report(predictions=tables, notes=["3 duplicates removed"], limits=["made-up images"])
    return write_retrieval_report(source, tmp_path_factory.mktemp("report"))


def test_the_page_is_well_formed_and_needs_nothing_from_outside(full):
    page = read(full)
    assert page.problems == []
    assert not {"script", "link", "iframe"} & set(page.tags)
    addresses = [value for name, value in page.attributes if name in ("src", "href", "srcset")]
    assert addresses
    assert all(value.startswith("data:image/png;base64,") for value in addresses)


def test_the_page_holds_the_figures_their_intervals_and_what_they_mean(full, tables):
    text = read(full).text
    figures = evaluate(tables["test"], tables["gallery"], k=5)
    bounds = intervals(judge(tables["test"], tables["gallery"], k=5))
    low, high = bounds["accuracy"]
    assert f"test accuracy, 5 nearest {100 * figures['accuracy']:.1f} %" in text
    assert f"95 % interval {100 * low:.1f}–{100 * high:.1f} %; naming all" in text
    for name in ("map_at_r", "recall_at_5", "centroid_balanced_accuracy", "open_set/tpr_at_0.01"):
        assert f"{figures[name]:.4f}" in text, name
    for words in (
        "val/map_at_r chose the checkpoint: 0.7 in epoch 3 (higher is better).",
        "The test figures chose nothing.",
        "the most frequent class among the 5 most similar of 200 gallery images of 4 classes",
        "80 val queries, 160 test queries, 200 gallery images",
        "3 duplicates removed",
        "made-up images",
        "python train.py task=retrieval",
    ):
        assert words in text, words
    assert "class/" not in text  # every class has its line in a table of classes


def test_every_picture_lies_beside_the_page_as_png(full):
    pictures = {path.stem: path.read_bytes() for path in full.parent.glob("*.png")}
    assert set(pictures) == {
        "training_curve", "confusion", "cmc", "rejection", "similarities", "projection",
    }  # fmt: skip
    for name, png in pictures.items():
        assert struct.unpack(">II", png[16:24]) > (400, 300), name
        assert np.asarray(Image.open(io.BytesIO(png)).convert("L")).std() > 5, name


def test_queries_that_the_gallery_does_not_know_are_said_with_their_class(full, tables):
    lost = [row for row in tables["test"].to_pylist() if row["class"] == "e"]
    said = f"{len(lost)} of 160 test queries are of a class that the gallery does not have (e)"
    assert said in read(full).text
    assert "Queries that the gallery does not know" in read(full).text


def test_the_rules_stand_side_by_side_with_the_chosen_one_marked(full, tables):
    rows = re.findall(r'<td class="nowrap( chose)?">([^<]+)</td>', full.read_text(encoding="utf-8"))
    assert rows == [("", "nearest image"), (" chose", "5 nearest ★"), ("", "class centroid")]
    figures = evaluate(tables["test"], tables["gallery"], k=5)
    balanced = [figures[f"{name}_balanced_accuracy"] for name in ("nn", "knn", "centroid")]
    moved = 100 * (max(balanced) - min(balanced))
    assert f"the rule alone moves balanced accuracy by {moved:.1f} points" in read(full).text


def test_classes_stand_worst_first_with_those_that_no_query_is_known_of_last(tables):
    rows, others = sections.class_rows(judge(tables["test"], tables["gallery"], k=5))
    assert others == ["nearest image", "class centroid"]
    assert [row.name for row in rows][-1] == "e"
    assert rows[-1].accuracy is None
    assert rows[-1].unknown == rows[-1].queries > 0
    shares = [row.accuracy for row in rows[:-1]]
    assert shares == sorted(shares)


def brute_force(tables, k=5):
    """(row, similarities, classes of the nearest) of each test query, and what it is named."""
    test, gallery = (np.stack(tables[name]["embedding"].to_pylist()) for name in ("test", "gallery"))
    names = tables["gallery"]["class"].to_pylist()
    for row, query in enumerate(test):
        scores = gallery @ query
        near = np.argsort(-scores, kind="stable")[:10]
        first = [names[place] for place in near[:k]]
        said = max(dict.fromkeys(first), key=first.count)
        yield row, scores[near], [names[place] for place in near], said


def test_the_8_most_confidently_wrong_are_shown_with_their_nearest_images(full, tables):
    html = full.read_text(encoding="utf-8")
    true, paths = tables["test"]["class"].to_pylist(), tables["test"]["path"].to_pylist()
    wrong = [
        (-max(score for score, name in zip(scores, near, strict=True) if name == said), row, near[:5])
        for row, scores, near, said in brute_force(tables)
        if said != true[row] != "e"
    ]
    assert len(wrong) > 8
    section = html[html.index("Most confidently wrong") : html.index("<h2>Found")]
    queries = section.split('<div class="query">')[1:]
    assert [re.search(r'alt="([^"]+)"', one).group(1) for one in queries] == [
        paths[row] for _, row, _ in sorted(wrong)[:8]
    ]
    for one, (_, row, near) in zip(queries, sorted(wrong)[:8], strict=True):
        frames = re.findall(r'<div class="near (right|wrong)">', one)
        assert frames == ["right" if name == true[row] else "wrong" for name in near]
        assert re.findall(r'<div class="verdict">[✓✗] (\w)</div>', one) == near


def test_the_hits_are_of_different_classes_first(tables):
    judged = judge(tables["test"], tables["gallery"], k=5)
    _, hits = sections.chosen_queries(judged)
    named = [tables["test"]["class"][row].as_py() for row in hits]
    assert sorted(named[:4]) == ["a", "b", "c", "d"]
    assert all(judged.answers.hits("knn")[row] for row in hits)
    assert len(set(hits)) == len(hits) == 8


@pytest.mark.usefixtures("undrawn")
def test_pixels_of_small_images_stay_pixels_and_unreadable_ones_say_why(tables, tmp_path):
    def load(path):
        if path.startswith("query"):
            raise ImageError("the file is truncated")
        return load_image(path)

    html = write_retrieval_report(report(predictions=tables, load_image=load), tmp_path).read_text()
    assert html.count("<span>the file is truncated</span>") == 16
    first = r'<img class="small" src="data:image/png;base64,([^"]+)" alt="(gallery[^"]+)"'
    uri, path = re.search(first, html).groups()
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri))))
    assert shown.shape == (40, 24, 3)
    assert (shown == sum(path.encode()) % 256).all()


def test_a_crop_shows_its_box_and_not_the_file_that_it_is_from():
    boxes = [[0, 0, 10, 8], [10.2, 0, 19.8, 8]]
    queries = embedding_table(np.eye(2), [0, 1], path=["a.png", "a.png"], box=boxes)
    gallery = embedding_table(np.eye(2), [0, 1], "gallery", box=[[0, 0, 20, 8]] * 2)

    def load(path):
        image = np.zeros((8, 20), np.uint8)
        image[:, 10:] = 200
        return image

    found = sections.searches(judge(queries, gallery), load)
    sizes = {}
    for search in found.hits:
        pixels = Image.open(io.BytesIO(base64.b64decode(search.query.uri.partition(",")[2])))
        sizes[search.query.name] = pixels.size, set(np.asarray(pixels).ravel().tolist())
    assert sizes == {"a": ((10, 8), {0}), "b": ((10, 8), {200})}


@pytest.mark.usefixtures("undrawn")
def test_a_collapse_is_said_in_plain_words_where_the_page_begins(tmp_path):
    random = np.random.default_rng(0)
    near = [
        embedding_table(1 + 1e-3 * random.normal(size=(40, 8)), random.integers(3, size=40), role)
        for role in ("query", "gallery")
    ]
    source = report(predictions=dict(zip(("test", "gallery"), near, strict=True)))
    text = read(write_retrieval_report(source, tmp_path)).text
    assert "embeddings collapsed" in text
    said = text.index("The embeddings have collapsed to almost one point")
    assert said < text.index("What was run")


@pytest.mark.usefixtures("undrawn")
def test_a_split_with_a_gallery_of_its_own_does_not_search_the_one_beside_it(tables, tmp_path):
    roles = ["gallery"] * 20 + ["query"] * 10
    own = embedding_table(np.tile(np.eye(5), (6, 1)), [row % 5 for row in range(30)], roles)
    page = read(write_retrieval_report(report(predictions=tables | {"val": own}), tmp_path))
    assert "10 val queries, 160 test queries" in page.text
    assert page.problems == []


@pytest.mark.usefixtures("undrawn")
def test_predictions_that_can_not_be_judged_say_why(tables, tmp_path):
    text = read(write_retrieval_report(report(predictions={"test": tables["test"]}), tmp_path)).text
    assert "The test predictions were not judged: no row has the role gallery" in text
    assert "there are no headline figures" in text


@pytest.mark.usefixtures("undrawn")
def test_a_run_that_crashed_still_has_a_page(tmp_path):
    page = read(write_retrieval_report(report(history=[], limits=["crashed at epoch 0"]), tmp_path))
    assert page.problems == []
    assert "crashed at epoch 0" in page.text
    assert "No predictions were written" in page.text


@pytest.mark.usefixtures("undrawn")
def test_no_query_that_the_gallery_knows_is_no_accuracy(tables, tmp_path):
    strange = embedding_table(np.eye(3, 16), [7, 7, 8], path=["x", "y", "z"])
    page = read(write_retrieval_report(report(predictions=tables | {"test": strange}), tmp_path))
    assert page.problems == []
    assert "3 of 3 test queries are of a class that the gallery does not have" in page.text
    assert "accuracy, 5 nearest undefined" in page.text


@pytest.mark.usefixtures("undrawn")
def test_stretched_16_bit_images_are_said_to_be(tables, tmp_path):
    stretched = CONFIG | {"data": {"radiometry": {"_target_": "tapetum.images.infrared.FullRange"}}}
    said = "16-bit images are shown from their own 1st to their own 99th percentile"
    page = write_retrieval_report(report(predictions=tables, config=stretched), tmp_path / "one")
    assert said in read(page).text
    assert said not in read(write_retrieval_report(report(predictions=tables), tmp_path / "two")).text


# -- pictures ----------------------------------------------------------------------------------------------


def test_a_hundred_classes_are_drawn_as_the_twenty_confused_most(monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "_matrix", lambda ax, *matrix: drawn.append(matrix))
    random = np.random.default_rng(0)
    labels = random.integers(100, size=400)
    names = [f"class {label:03}" for label in labels]
    centres = random.normal(size=(100, 32))
    lookalike = np.where(labels < 30, random.integers(30, size=400), labels)  # only these are confused
    judged = judge(
        embedding_table(centres[lookalike], labels, names=names),
        embedding_table(centres, range(100), "gallery", names=[f"class {label:03}" for label in range(100)]),
        rule="nearest",
    )
    assert plots.confusion_matrix(judged)
    counts, rows, columns = drawn[0]
    assert counts.shape == (20, 21)
    assert columns[-1] == "any other"
    assert {int(name.split()[1]) for name in columns[:-1]} <= set(range(30))
    asked = {name: int((labels == int(name.split()[1])).sum()) for name in columns[:-1]}
    assert counts.sum(axis=1).tolist() == list(asked.values())
    assert rows == [f"{name} ({count})" for name, count in asked.items()]


def test_the_plane_is_that_of_the_largest_variance_and_the_same_every_time():
    vectors = np.random.default_rng(0).normal(size=(50, 6)) * [1, 5, 1, 1, 3, 1]
    points, share = plots.principal(vectors)
    centred = vectors - vectors.mean(axis=0)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    assert np.allclose(np.abs(points), np.abs(left[:, :2] * values[:2]))
    assert share == pytest.approx((values[:2] ** 2).sum() / (values**2).sum())
    turned, _ = plots.principal(vectors[::-1])
    assert np.allclose(turned[::-1], points)


def test_points_are_taken_evenly_by_class():
    labels = np.repeat([3, 5, 9], [5000, 100, 1000])
    chosen = plots.evenly(labels, 2000)
    assert np.unique(chosen).size == len(chosen) == 2000
    assert np.bincount(labels[chosen])[[3, 5, 9]].tolist() == [950, 100, 950]
    assert plots.evenly(np.arange(3000), 2000).size == 2000
    assert plots.evenly(labels[:7], 2000).tolist() == list(range(7))


# -- beside the page ---------------------------------------------------------------------------------------


def test_trackers_get_the_misses_beside_what_they_found(tables):
    judged = judge(tables["test"], tables["gallery"], k=5)
    misses, _ = sections.chosen_queries(judged)
    found = list(strips(judged, lambda row: np.full((40, 24, 3), 90, np.uint8)))
    assert [sample.path for sample in found] == [tables["test"]["path"][row].as_py() for row in misses]
    rows = {row: (near, said) for row, _, near, said in brute_force(tables)}
    near, said = rows[misses[0]]
    true = tables["test"]["class"][misses[0]].as_py()
    assert found[0].caption.startswith(f"{found[0].path}: {true}, named {said}; nearest {near[0]} 0.")
    whole = SIDE + 2 * FRAME
    assert found[0].image.shape[0] == whole
    edges = found[0].image[0, whole + 24 :: whole]
    assert len(edges) == 5
    for edge, name in zip(edges.tolist(), near, strict=False):
        assert edge == ([0x22, 0x88, 0x33] if name == true else [0xCC, 0x33, 0x11])


def test_the_terminal_says_unknown_queries_and_a_collapse_and_the_worst_classes_only():
    metrics = {"test/accuracy": 0.9, "test/unknown_queries": 5.0, "test/coverage": 0.95}
    metrics |= {"test/embedding/collapsed": 1.0, "test/embedding/spread": 0.004, "test/map_at_r": 0.5}
    for number in range(20):
        for name in ("nn_accuracy", "knn_accuracy", "centroid_accuracy", "map_at_r"):
            metrics[f"test/class/thing {number:02}/{name}"] = number / 20
    shown = TASK.tables(metrics, CONFIG, monitor="val/map_at_r", title="run")
    text = "\n".join(printed(one) for one in shown)
    assert "test: 5 queries (5.0 %) of classes that the gallery does not have" in text
    assert "the embeddings have collapsed to almost one point (spread 0.0040)" in text
    assert "the majority of the 5 nearest images" in text
    assert re.findall(r"thing \d\d", text) == [f"thing {number:02}" for number in range(12)]
    assert "12 worst of 20 classes" in text
    assert all(isinstance(one, Text) for one in warnings(metrics, DECISION))
    assert worst_classes(without_classes(metrics)) == []


def test_runs_are_compared_by_their_figures_with_intervals(tables, tmp_path):
    bounds = TASK.intervals(tables, {}, CONFIG)
    figures = evaluate(tables["test"], tables["gallery"], k=5)
    assert bounds["test/map_at_r"][0] < figures["map_at_r"] < bounds["test/map_at_r"][1]
    assert {name.partition("/")[0] for name in bounds} == {"val", "test"}
    metrics = {f"test/{name}": value for name, value in figures.items()} | {"val/map_at_r": 0.5}
    runs = []
    for seed, rule in ((1, "knn"), (2, "centroid")):
        config = CONFIG | {"seed": seed, "model": {"fit": True, "decision": DECISION | {"rule": rule}}}
        judged = TASK.judged(tables, metrics)
        runs.append(RunSummary(f"run {seed}", config, HISTORY, metrics, bounds, judged))
    page = read(write_comparison(comparison(runs), tmp_path))
    assert page.problems == []
    assert f"{figures['map_at_r']:.4f}" in page.text
    assert "test/map_at_r" in page.text
