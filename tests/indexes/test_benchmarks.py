"""The layouts of the field's benchmarks, read from tiny data as it lies on a disk."""

import ast
import csv
import json
import shutil
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tapetum.errors import ConfigError, DataError
from tapetum.evaluation.generators import subsets
from tapetum.images.sources import read_image
from tapetum.indexes import (
    aigcdetectbenchmark,
    aigibench,
    community_forensics,
    drct,
    forensynths,
    genimage,
    leaves,
    manifest,
    univfd,
    wildrf,
)
from tapetum.indexes.build import build
from tapetum.indexes.walk import MissingFolder
from tests.layouts import (
    make_aigcdetectbenchmark,
    make_aigibench,
    make_community_forensics,
    make_drct,
    make_forensynths,
    make_genimage,
    make_image,
    make_peer_list,
    make_univfd,
    make_wildrf,
)

MAKERS = {
    aigcdetectbenchmark: make_aigcdetectbenchmark,
    aigibench: make_aigibench,
    community_forensics: make_community_forensics,
    drct: lambda root: make_drct(root / "drct", root / "MSCOCO"),
    forensynths: make_forensynths,
    genimage: make_genimage,
    univfd: make_univfd,
    wildrf: make_wildrf,
}


def rows(listing):
    return listing.table.to_pylist()


def made(layout, place, **options):
    return build(layout, **{"root": place, "seed": 0, "cache": None, "name": "mine"} | options)


def places(listing):
    """(split, generator, label) → images."""
    return dict(Counter((row["split"], row["generator"], row["label"]) for row in rows(listing)))


def both(number, *keys):
    """The same number of real and generated images for each (split, generator)."""
    return {(*key, label): number for key in keys for label in (0, 1)}


@pytest.mark.parametrize("module", MAKERS, ids=lambda module: module.__name__.rsplit(".", 1)[-1])
def test_a_benchmark_declares_its_columns_and_builds(module, tmp_path):
    root = MAKERS[module](tmp_path)
    tree = ast.parse(Path(module.__file__).read_text())
    declared = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "COLUMNS"
    ]
    assert declared == [tuple(module.index(root).table.column_names)]
    index = made(module.index, root, val_fraction=0.2)
    assert index.counts().keys() == {"train", "val", "test"}
    assert all((folder / path).is_file() for folder, path in map(index.location, range(len(index))))
    # Oracle: every generated image, and no real one, has a checkerboard.
    board = np.indices((32, 32)).sum(axis=0) % 2 * 2 - 1
    found = [
        float((read_image(*index.location(row)).numpy().mean(axis=0) * board).mean()) > 6
        for row in range(len(index))
    ]
    assert found == [bool(label) for label in index.column("label")]


@pytest.mark.parametrize("module", MAKERS, ids=lambda module: module.__name__.rsplit(".", 1)[-1])
def test_a_missing_root_says_where_the_benchmark_is_and_what_to_type(module, tmp_path):
    with pytest.raises(MissingFolder) as caught:
        made(partial(module.index), tmp_path / "away", name="bench")
    assert f"data.root={tmp_path / 'away'} is not a folder: type data.root=<folder of bench>" in str(
        caught.value
    )
    assert str(caught.value).endswith(f"bench is at {module.ORIGIN}")
    assert module.ORIGIN.startswith("https://github.com/")


# -- GenImage ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("archives", [True, False])
def test_genimage_reads_the_archives_and_the_layout_of_its_readme(tmp_path, archives):
    listing = genimage.index(make_genimage(tmp_path, archives=archives))
    keys = [("train", "ADM"), ("train", "stable_diffusion_v_1_4")]
    tests = [("test", "ADM"), ("test", "stable_diffusion_v_1_4")]
    assert places(listing) == {**both(24, *keys), **both(8, *tests)}
    inner = "imagenet_ai_0508_adm/" if archives else ""
    assert rows(listing)[0]["path"] == f"ADM/{inner}train/ai/0000.PNG"
    assert {row["path"].rsplit(".")[-1] for row in rows(listing) if not row["label"]} == {"JPEG"}


def test_genimage_carves_validation_from_train_and_tests_on_the_published_val(tmp_path):
    index = made(genimage.index, make_genimage(tmp_path), val_fraction=0.25)
    paths = {
        split: [index.location(row)[1] for row in index.rows(split)] for split in ("train", "val", "test")
    }
    assert len(paths["test"]) == 32
    assert all("/val/" in path for path in paths["test"])
    assert paths["val"]
    assert all("/train/" in path for path in [*paths["val"], *paths["train"]])


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("Wukong", "wukong"),
        ("Stable Diffusion V1.4", "stable_diffusion_v_1_4"),
        ("stable_diffusion_v_1_5", "stable_diffusion_v_1_5"),
        ("imagenet_ai_0419_sdv4", "stable_diffusion_v_1_4"),
        ("imagenet_glide", "glide"),
        ("imagenet_midjourney", "Midjourney"),
        ("GLIDE", "glide"),
        ("VQDM", "VQDM"),
        ("sdxl_turbo", "sdxl_turbo"),
    ],
)
def test_a_generator_of_genimage_has_one_name_however_its_folder_is_spelt(folder, name):
    assert genimage.canonical(folder) == name


def test_genimage_trains_and_tests_on_the_generators_chosen(tmp_path):
    make_genimage(tmp_path, generators=("ADM", "wukong", "stable_diffusion_v_1_4"))
    listing = genimage.index(
        tmp_path, train_generators=["Stable Diffusion v1.4"], test_generators=["adm", "Wukong"]
    )
    assert places(listing) == {
        **both(24, ("train", "stable_diffusion_v_1_4")),
        **both(8, ("test", "ADM"), ("test", "wukong")),
    }
    assert {row["split"] for row in rows(genimage.index(tmp_path, train_generators=[]))} == {"test"}


def test_an_unknown_generator_is_named_with_those_that_are_there(tmp_path):
    make_genimage(tmp_path)
    with pytest.raises(
        ConfigError, match=r"test_generators: .* has no ADMM: did you mean ADM\? It has ADM, stable_diff"
    ):
        genimage.index(tmp_path, test_generators=["ADMM"])
    with pytest.raises(ConfigError, match=r"must be a list: type 'data\.index\.train_generators=\[ADM\]'"):
        genimage.index(tmp_path, train_generators="ADM")


def test_genimage_says_where_a_folder_is_out_of_place(tmp_path):
    make_genimage(tmp_path / "a", archives=False)
    with pytest.raises(DataError, match=rf"is the folder of one generator: type data\.root={tmp_path / 'a'}"):
        genimage.index(tmp_path / "a" / "ADM")
    (tmp_path / "b" / "ADM" / "ai").mkdir(parents=True)
    with pytest.raises(DataError, match=r"ADM/ai lies in neither train/ nor val/"):
        genimage.index(tmp_path / "b")
    make_genimage(tmp_path / "c", generators=("wukong",))
    make_image(tmp_path / "c" / "Wukong" / "train" / "ai" / "1.png", generated=True)
    with pytest.raises(DataError, match=r"holds wukong twice \(Wukong, wukong\)"):
        genimage.index(tmp_path / "c")
    (tmp_path / "d").mkdir()
    with pytest.raises(DataError, match=r"holds no folder named nature or ai"):
        genimage.index(tmp_path / "d")


@pytest.mark.parametrize("archives", [True, False])
def test_the_folder_above_genimage_is_not_taken_for_one_generator(tmp_path, archives):
    make_genimage(tmp_path / "GenImage", archives=archives)
    with pytest.raises(DataError, match=rf"so it is no generator: type data\.root={tmp_path / 'GenImage'}$"):
        genimage.index(tmp_path)


@pytest.mark.parametrize("module", [forensynths, aigibench, univfd, wildrf, community_forensics])
def test_the_folder_above_a_benchmark_is_not_taken_for_it(module, tmp_path):
    MAKERS[module](tmp_path / "unpacked")
    with pytest.raises(DataError, match=rf"type data\.root={tmp_path / 'unpacked'}, the folder that train"):
        module.index(tmp_path)


def test_a_folder_of_test_sets_may_hold_a_class_called_train(tmp_path):
    tests = forensynths.index(make_forensynths(tmp_path) / "test")
    assert {row["generator"] for row in rows(tests)} == {"progan", "biggan", "san"}


def test_generators_below_a_folder_of_their_own_are_not_taken_for_one(tmp_path):
    make_forensynths(tmp_path, tests=("CNN/progan/airplane", "CNN/biggan"))
    with pytest.raises(DataError, match=r"test/CNN/progan/airplane/0_real lies too deep: .* Move progan/air"):
        forensynths.index(tmp_path)


def test_a_folder_of_another_layout_is_told_what_it_holds_and_what_to_type(tmp_path):
    make_genimage(tmp_path / "a", generators=("ADM",), archives=False)
    with pytest.raises(DataError, match=r"It holds ADM/train/ai: type data=genimage, or another data\.root"):
        forensynths.index(tmp_path / "a")
    make_wildrf(tmp_path / "b")
    with pytest.raises(DataError, match=r"It holds test/facebook/0_real: type data=forensynths, univfd, "):
        genimage.index(tmp_path / "b")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "imagenet_glide.z01").write_bytes(b"")
    with pytest.raises(DataError, match=r"It holds archives \(imagenet_glide\.z01\): unpack them"):
        genimage.index(tmp_path / "c")
    with pytest.raises(DataError, match=r"no <generator>/train2017 and no .*/val2017, but test, train, val"):
        drct.index(tmp_path / "b")


def test_genimage_keeps_and_counts_empty_files_and_takes_one_class_alone(tmp_path):
    make_genimage(tmp_path, generators=("ADM",), empty=2)
    index = made(genimage.index, tmp_path)
    assert index.notes["files of zero bytes (kept; reading them is an error)"] == 4 // 2
    make_genimage(tmp_path / "x", generators=("ADM",))
    for file in (tmp_path / "x").glob("**/val/nature/*"):
        file.unlink()
    assert made(genimage.index, tmp_path / "x").counts()["test"] == {"generated": 8}


def test_images_beside_the_class_folders_are_counted(tmp_path):
    make_genimage(tmp_path, generators=("ADM",))
    make_image(tmp_path / "ADM" / "stray.png", generated=True)
    note = "images left out that lie outside every class folder"
    assert genimage.index(tmp_path).notes == {note: 1}


# -- ForenSynths and its family ------------------------------------------------------------------------------


def test_forensynths_takes_generators_from_test_folders_and_progan_for_the_classes(tmp_path):
    listing = forensynths.index(make_forensynths(tmp_path))
    assert places(listing) == {
        **both(36, ("train", "progan")),
        **both(9, ("val", "progan")),
        **both(6, ("test", "progan")),
        **both(3, ("test", "biggan"), ("test", "san")),
    }


def test_forensynths_takes_the_classes_chosen_of_train_and_val_only(tmp_path):
    make_forensynths(tmp_path)
    listing = forensynths.index(tmp_path, classes=["car", "Train"], test_generators=["progan"])
    assert places(listing) == {
        **both(24, ("train", "progan")),
        **both(6, ("val", "progan")),
        **both(6, ("test", "progan")),
    }
    assert {row["path"].split("/")[1] for row in rows(listing) if row["split"] == "train"} == {"car", "train"}
    with pytest.raises(ConfigError, match=r"data\.index\.classes: .* has no sofa\. It has car, cat, train"):
        forensynths.index(tmp_path, classes=["sofa"])
    with pytest.raises(ConfigError, match=r"has no bigan: did you mean biggan\? It has biggan, progan, san"):
        forensynths.index(tmp_path, test_generators=["bigan"])


def test_forensynths_reads_a_level_named_progan_and_folders_that_one_archive_unpacks_to(tmp_path):
    make_forensynths(tmp_path / "a", classes=("progan/car", "progan/train"))
    listing = forensynths.index(tmp_path / "a", classes=["train"], test_generators=[])
    assert places(listing) == {**both(12, ("train", "progan")), **both(3, ("val", "progan"))}
    plain = forensynths.index(make_forensynths(tmp_path / "b") / "train")
    assert places(plain) == both(36, (None, "progan"))
    tests = forensynths.index(tmp_path / "b" / "test")
    assert places(tests) == {
        **both(6, (None, "progan")),
        **both(3, (None, "biggan"), (None, "san")),
    }
    index = made(
        forensynths.index,
        None,
        roots={"train": tmp_path / "b" / "train", "test": tmp_path / "b" / "test"},
        val_fraction=0,
    )
    assert index.generators() == ["biggan", "progan", "san"]
    assert len(index.rows("test")) == 24


def test_folders_out_of_place_are_named(tmp_path):
    make_forensynths(tmp_path / "a")
    make_image(tmp_path / "a" / "stylegan" / "0_real" / "1.png", generated=False)
    with pytest.raises(DataError, match=r"holds train, val or test, and stylegan/0_real beside them"):
        forensynths.index(tmp_path / "a")
    make_forensynths(tmp_path / "b")
    make_image(tmp_path / "b" / "test" / "1_fake" / "1.png", generated=False)
    with pytest.raises(DataError, match=r"test/1_fake lies in no generator's folder: move it to .*/<gener"):
        forensynths.index(tmp_path / "b")


def test_a_folder_with_one_class_is_taken_as_it_is(tmp_path):
    make_forensynths(tmp_path)
    for file in (tmp_path / "test" / "san" / "0_real").iterdir():
        file.unlink()
    listing = forensynths.index(tmp_path)
    assert places(listing)[("test", "san", 1)] == 3
    assert ("test", "san", 0) not in places(listing)


def test_aigcdetectbenchmark_spells_generators_as_its_evaluation_does(tmp_path):
    listing = aigcdetectbenchmark.index(make_aigcdetectbenchmark(tmp_path))
    names = {row["generator"] for row in rows(listing) if row["split"] == "test"}
    assert names == {"progan", "whichfaceisreal", "ADM", "Glide", "stable_diffusion_v_1_4", "DALLE2"}
    assert names <= set(aigcdetectbenchmark.GENERATORS)
    chosen = aigcdetectbenchmark.index(tmp_path, test_generators=["DALLE2"], classes=["cat"])
    assert places(chosen) == {
        **both(12, ("train", "progan")),
        **both(3, ("val", "progan")),
        **both(3, ("test", "DALLE2")),
    }


def test_aigibench_has_two_settings_of_training(tmp_path):
    make_aigibench(tmp_path)
    second = places(aigibench.index(tmp_path, test_generators=[]))
    assert second == {
        **both(24, ("train", "progan")),
        **both(12, ("train", "stable_diffusion_v_1_4")),
        **both(6, ("val", "progan")),
        **both(3, ("val", "stable_diffusion_v_1_4")),
    }
    first = aigibench.index(tmp_path, train_generators=["ProGAN"])
    assert places(first) == {
        **both(24, ("train", "progan")),
        **both(6, ("val", "progan")),
        **both(3, ("test", "ProGAN"), ("test", "FLUX1-dev"), ("test", "SocialRF")),
    }
    with pytest.raises(ConfigError, match=r"has no sdxl\. It has progan, stable_diffusion_v_1_4"):
        aigibench.index(tmp_path, train_generators=["sdxl"])


def test_wildrf_is_tested_platform_by_platform(tmp_path):
    listing = wildrf.index(make_wildrf(tmp_path))
    tests = [("test", name) for name in ("reddit", "twitter", "facebook")]
    assert places(listing) == {**both(16, ("train", None)), **both(4, ("val", None)), **both(3, *tests)}
    one = wildrf.index(tmp_path, test_generators=["Reddit"])
    assert {row["generator"] for row in rows(one) if row["split"] == "test"} == {"reddit"}
    make_image(tmp_path / "test" / "0_real" / "1.png", generated=False)
    with pytest.raises(DataError, match=r"test/0_real is out of place: WildRF is train\|val/0_real\|1_fake"):
        wildrf.index(tmp_path)


def test_community_forensics_shares_the_real_images_of_sources_that_generate_nothing(tmp_path):
    listing = community_forensics.index(make_community_forensics(tmp_path))
    expected = {}
    for split, count in (("train", 12), ("test", 3)):
        expected |= both(count, (split, "FFHQ-StyleGAN3"))
        expected |= {(split, "stabilityai/sdxl", 1): count, (split, None, 0): 2 * count}
    assert places(listing) == expected
    one = community_forensics.index(tmp_path, generators=["stabilityai/sdxl"])
    assert {row["generator"] for row in rows(one)} == {"stabilityai/sdxl", None}
    assert places(one)[("train", None, 0)] == 36, (
        "the real images of what was not chosen are real all the same"
    )
    plain = community_forensics.index(tmp_path / "train")
    assert {row["split"] for row in rows(plain)} == {None}


# -- real images that several generators share ---------------------------------------------------------------


def judged(listing) -> dict[str, set[str]]:
    """Generator → the folders of the real images that the evaluation judges it against."""
    test = listing.table.filter(pa.compute.equal(listing.table.column("split"), "test"))
    folders = [path.rsplit("/", 1)[0] for path in test.column("path").to_pylist()]
    labels = test.column("label").to_pylist()
    test = test.set_column(
        test.column_names.index("generator"), "generator", test.column("generator").cast(pa.string())
    )
    return {
        one.name: {folders[row] for row in one.rows if not labels[row]}
        for one in subsets(test.combine_chunks())
    }


@pytest.mark.parametrize("below", ["", "test/"])
def test_univfd_judges_every_generator_against_its_published_real_images(tmp_path, below):
    make_univfd(tmp_path)
    if below:
        (tmp_path / "diffusion_datasets").rename(tmp_path / "test" / "diffusion_datasets")
    found = judged(univfd.index(tmp_path))
    diffusion = f"{below}diffusion_datasets"
    assert {name: real for name, real in found.items() if name in univfd.REAL_SET} == {
        "guided": {f"{diffusion}/imagenet/0_real"},
        **{name: {f"{diffusion}/laion/0_real"} for name in ("ldm_200", "glide_100_27", "dalle")},
    }
    assert found["san"] == {"test/san/0_real"}


def test_univfd_reads_the_diffusion_sets_alone_and_copies_with_real_images_of_their_own(tmp_path):
    make_univfd(tmp_path, own_reals=("dalle",))
    alone = univfd.index(tmp_path / "diffusion_datasets")
    assert {row["split"] for row in rows(alone)} == {"test"}
    assert judged(alone)["dalle"] == {"dalle/0_real"}
    assert judged(alone)["ldm_200"] == {"laion/0_real"}


def test_univfd_takes_the_real_images_that_the_chosen_generators_need(tmp_path):
    make_univfd(tmp_path)
    listing = univfd.index(tmp_path, test_generators=["guided", "san"], classes=["cat"])
    assert judged(listing).keys() == {"guided", "san"}
    assert listing.notes == {"folders of real images left out that no chosen generator needs: laion": 1}
    assert sum(row["split"] == "train" for row in rows(listing)) == 24


def test_missing_real_images_are_named_with_the_generators_that_need_them(tmp_path):
    make_univfd(tmp_path)
    folder = tmp_path / "diffusion_datasets"
    shutil.rmtree(folder / "imagenet")
    with pytest.raises(DataError, match=r"real images of guided are missing: .* has no imagenet/0_real"):
        univfd.index(tmp_path)
    assert judged(univfd.index(tmp_path, test_generators=["dalle"])) == {
        "dalle": {"diffusion_datasets/laion/0_real"}
    }
    (folder / "laion").rename(folder / "imagenet")
    with pytest.raises(
        DataError,
        match=r"of ldm_200, glide_100_27, dalle are missing: .* leave them out with "
        r"'data\.index\.test_generators=\[biggan,guided,progan,san\]'",
    ):
        univfd.index(tmp_path)


def test_shared_real_images_whose_folder_is_empty_are_missing(tmp_path):
    make_univfd(tmp_path / "univfd")
    for file in (tmp_path / "univfd/diffusion_datasets/laion/0_real").iterdir():
        file.unlink()
    with pytest.raises(DataError, match=r"of ldm_200, glide_100_27, dalle are missing: .*0_real is empty\."):
        univfd.index(tmp_path / "univfd")
    root = make_drct(tmp_path / "drct", tmp_path / "MSCOCO")
    for file in (tmp_path / "MSCOCO/val2017").iterdir():
        file.unlink()
    with pytest.raises(DataError, match=r"are missing: .* has no val2017, or it is empty"):
        drct.index(root)


def test_drct_keeps_real_and_generated_images_under_roots_of_their_own(tmp_path):
    root = make_drct(tmp_path / "big" / "DRCT-2M", tmp_path / "coco")
    layout = partial(drct.index, real=str(tmp_path / "coco"))
    index = made(layout, root, val_fraction=0.3)
    assert index.roots == (root, tmp_path / "coco")
    assert {index.location(row)[0] for row in index.rows("test")} == set(index.roots)
    assert all((folder / path).is_file() for folder, path in map(index.location, range(len(index))))
    assert index.counts()["test"] == {"real": 4, "generated": 8}
    groups = {split: {index.column("group")[row] for row in index.rows(split)} for split in ("train", "val")}
    assert groups["val"]
    assert not groups["val"] & groups["train"], "a caption's real and generated images share a side"
    chosen = layout(root, train_generators=["sdxl-turbo"], test_generators=["stable-diffusion-v1-4"])
    assert places(chosen) == {
        ("train", None, 0): 24,
        ("train", "sdxl-turbo", 1): 24,
        ("test", None, 0): 4,
        ("test", "stable-diffusion-v1-4", 1): 4,
    }


def test_drct_names_the_generators_whose_real_images_are_missing(tmp_path):
    root = make_drct(tmp_path / "drct", tmp_path / "MSCOCO")
    assert len(rows(drct.index(root))) == 84
    (tmp_path / "MSCOCO" / "val2017").rename(tmp_path / "val2017")
    with pytest.raises(
        DataError, match=r"real images of sdxl-turbo, stable-diffusion-v1-4 are missing: .* has no val2017"
    ):
        drct.index(root)
    with pytest.raises(
        DataError, match=r"nowhere is not a folder: type data\.index\.real=<folder of MS COCO"
    ):
        drct.index(root, real="nowhere")


# -- lists of other projects ---------------------------------------------------------------------------------


def test_manifest_reads_the_lists_of_other_projects(tmp_path):
    expected = {("images/real_0000.png", 0), ("images/adm_0001.png", 1), ("images/sdxl_0002.png", 1)}
    for file in ("list.csv", "labels.csv", "list.json"):
        listing = manifest.index(make_peer_list(tmp_path, file=file), file=file)
        assert {(row["path"], row["label"]) for row in rows(listing)} >= expected
        assert len(rows(listing)) == 24
        generators = {row["generator"] for row in rows(listing)}
        assert generators == ({None, "adm", "sdxl"} if file == "list.csv" else {None})
        assert listing.notes == {}
    table = pa.table({"filename": ["images/real_0000.png"], "typ": ["real"]})
    pq.write_table(table, tmp_path / "list.parquet")
    assert rows(manifest.index(tmp_path, file="list.parquet"))[0]["label"] == 0


def test_manifest_takes_paths_that_start_from_the_root_of_the_file_system(tmp_path):
    rows_ = [{"path": str(make_image(tmp_path / "a.png", generated=False)), "label": 0}]
    (tmp_path / "list.json").write_text(json.dumps(rows_))
    listing = manifest.index(Path("/"), file=str(tmp_path / "list.json"))
    assert rows(listing)[0]["path"] == str(tmp_path / "a.png").removeprefix("/")


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        (
            "a.csv",
            "filename,typ\na.png,\n",
            r"row 1 \(line 2\) of .* has no typ: write real, or what generated",
        ),
        ("a.csv", "filename,path,label\na,b,0\n", "several columns for path"),
        ("a.json", "{", "is not json in UTF-8"),
        ("a.json", "{}", r"is not a list of objects such as \{"),
        ("a.json", "[]", "is not a list of objects"),
        (
            "a.json",
            '[{"path": "a", "label": 0}, {"path": "b"}]',
            "row 2 of .* has the keys path, the first has",
        ),
        ("a.json", '[{"path": "a", "label": 2}]', r"row 1 of .*a\.json: label '2' is not known"),
        ("a.json", '[{"image": "a"}]', "has no column path; it has image"),
    ],
)
def test_a_list_of_another_project_that_is_wrong_is_told(tmp_path, file, text, message):
    (tmp_path / file).write_text(text)
    with pytest.raises(DataError, match=message):
        manifest.index(tmp_path, file=file)


def test_a_typ_column_beside_labels_is_only_counted(tmp_path):
    with (tmp_path / "a.csv").open("w", newline="") as lines:
        csv.writer(lines).writerows([("filename", "label", "typ"), ("a.png", "1", "adm")])
    listing = manifest.index(tmp_path, file="a.csv")
    assert rows(listing)[0]["generator"] is None
    assert listing.notes == {"columns of a.csv not used: typ": 1}


def test_names_match_whatever_stands_between_letters_and_digits():
    there = ["stable_diffusion_v_1_4", "GLIDE"]
    assert leaves.choose("x", ["Stable Diffusion v1.4", "glide"], there, "here") == set(there)
    assert leaves.choose("x", [], there, "here") == set()
