"""`tapetum show`: what the page shows is what a training's loaders hand out, and nothing is hidden."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from tapetum.commands.show import show, show_run
from tapetum.config.compose import compose
from tapetum.config.overrides import prepare
from tapetum.images.geometry import InputSpec
from tapetum.images.geometry import prepare as prepare_image
from tapetum.images.sources import read_image
from tapetum.runs.building import build_datamodule, build_index, build_module, build_network_on_meta

from commands.experiments import TINY, run
from layouts import make_folder, make_manifest
from reports.pages import read
from reports.pictures import pictures

AUGMENT = ("augment=wang2020", "augment.enlarge=6")


def words(data, *more):
    return [*TINY, "data=folder", f"data.root={data}", *more]


def shown(page):
    """(path, caption) → pixels of every picture."""
    return {tuple(alt.rsplit(", ", 1)): pixels for alt, _, pixels in pictures(page)}


def as_tensor(pixels):
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)


def test_a_page_lies_below_the_outputs_and_its_path_ends_the_output(folder, tmp_path, capsys):
    assert run("show", *words(folder, f"paths.outputs={tmp_path}")) == 0
    (page,) = tmp_path.glob("samples/*/index.html")
    assert capsys.readouterr().out == f"samples  {page}\n"
    found = read(page)
    assert found.problems == []
    assert "24 of 48 train images" in found.text


def test_evaluation_images_have_the_pixels_that_the_geometry_gives(folder, tmp_path):
    geometry = ["model.geometry.size=[24,20]", "model.geometry.crop=[16,12]"]
    page = show(words(folder, *AUGMENT, *geometry), split="test", out=tmp_path / "a.html")
    found = shown(page)
    assert len(found) == 16
    own = build_network_on_meta(compose(prepare(words(folder), multirun=False)).config).input_spec
    spec = InputSpec((24, 20), own.resize, (16, 12), own.interpolation)
    for (path, caption), pixels in found.items():
        assert caption == ""
        assert torch.equal(as_tensor(pixels), prepare_image(read_image(folder, path), spec))


def test_training_images_are_those_that_the_loader_hands_out_epoch_by_epoch(folder, tmp_path):
    page = show(words(folder, *AUGMENT, "seed=7"), out=tmp_path / "a.html")
    found = shown(page)
    config = compose(prepare(words(folder, *AUGMENT, "seed=7"), multirun=False)).config
    index = build_index(config)
    module = build_module(config, build_network_on_meta(config), train=False)
    loader = build_datamodule(config, index, module).train_dataloader()
    captions = {caption for _, caption in found}
    assert captions == {"not augmented", "epoch 1", "epoch 2", "epoch 3"}
    compared = 0
    for epoch in range(3):
        loader.batch_sampler.sampler.set_epoch(epoch)
        for batch in loader:
            for row, image in zip(batch["index"].tolist(), batch["images"], strict=True):
                pixels = found.get((index.location(row)[1], f"epoch {epoch + 1}"))
                if pixels is not None:
                    assert torch.equal(as_tensor(pixels), image)
                    compared += 1
    assert compared == 3 * 24
    paths = {path for path, _ in found}
    assert any(
        not np.array_equal(found[path, "epoch 1"], found[path, "epoch 2"]) for path in paths
    )  # the draws differ


def test_without_augmentation_each_image_stands_there_once(folder, tmp_path):
    found = shown(show(words(folder), out=tmp_path / "a.html"))
    assert len(found) == 24
    assert {caption for _, caption in found} == {""}


def test_classes_and_generators_are_shown_equally_often(tmp_path):
    data = make_manifest(tmp_path / "data", splits={"train": 40, "test": 4})
    overrides = [*TINY, "data=manifest", f"data.root={data}", "data.val_fraction=0"]
    text = read(show(overrides, out=tmp_path / "a.html")).text
    assert "Real 12 of 40 train images" in text
    assert "Generated 12 of 40 train images" in text
    assert text.count("generated gan_a 32 × 32") == text.count("generated gan_b 32 × 32") == 6
    assert "generated gan_a 20 2" in text  # the table: 20 in train, 2 in test


def test_a_class_that_has_few_images_leaves_its_place_to_the_other(tmp_path):
    data = make_folder(tmp_path / "data", splits={"train": 30, "test": 2})
    for file in sorted((data / "train" / "real").iterdir())[3:]:
        file.unlink()
    text = read(show(words(data, "data.val_fraction=0"), out=tmp_path / "a.html")).text
    assert "Real 3 of 3 train images" in text
    assert "Generated 21 of 30 train images" in text


def test_the_seed_chooses_the_images_and_nothing_else_does(folder, tmp_path):
    first, again, other = (
        {path for path, _ in shown(show(words(folder, *more), out=tmp_path / "a.html"))}
        for more in (["seed=1"], ["seed=1", "augment=wang2020"], ["seed=2"])
    )
    assert first == again != other


def test_images_that_cannot_be_read_are_listed_with_their_reason_and_replaced(tmp_path):
    data = make_folder(tmp_path / "data", splits={"train": 14, "test": 2})
    bad = sorted((data / "train" / "real").iterdir())[:4]  # 10 real images are left, so that all are drawn
    for file in bad:
        file.write_bytes(b"")
    page = show(words(data, "data.val_fraction=0", "data.on_bad_image=raise"), out=tmp_path / "a.html")
    found, text = shown(page), read(page).text
    paths = {f"train/real/{file.name}" for file in bad}
    assert len(found) == 24
    assert not {path for path, _ in found} & paths
    assert all(f"real – {path} the file is empty (0 bytes)" in text for path in paths)
    assert "4 images of the 28 drawn could not be read" in text


def test_a_folder_of_unreadable_images_makes_a_page_all_the_same(tmp_path):
    data = make_folder(tmp_path / "data", splits={"train": 4, "test": 2})
    for file in data.rglob("*.jpg"):
        file.write_text("not an image at all")
    text = read(show(words(data, "data.val_fraction=0"), out=tmp_path / "a.html")).text
    assert "None of the images that were drawn could be read" in text
    assert text.count("not a JPEG, PNG, WebP, BMP or TIFF file") == 8


def test_sixteen_bits_one_channel_and_any_size_can_be_shown(tmp_path):
    rng = np.random.default_rng(0)
    sizes = [(5, 7), (40, 300), (64, 64)]
    for name in ("real", "generated"):
        folder = tmp_path / "data" / "train" / name
        folder.mkdir(parents=True)
        for number, size in enumerate(sizes):
            values = rng.integers(0, 65536, size, dtype=np.uint16)
            Image.fromarray(values).save(folder / f"{number}.png")
    overrides = words(
        tmp_path / "data", "data.val_fraction=0", "model.geometry.size=null", "model.geometry.resize=none",
        "model.geometry.crop=null", "model.geometry.channels=1", "augment=wang2020", "augment.crop=center",
    )  # fmt: skip
    page = show(overrides, out=tmp_path / "a.html")
    found = shown(page)
    assert len(found) == 4 * 6
    plain = {path: pixels for (path, caption), pixels in found.items() if caption == "not augmented"}
    assert sorted(pixels.shape for pixels in plain.values()) == sorted(2 * sizes)
    for path, pixels in plain.items():
        values = np.asarray(Image.open(tmp_path / "data" / path)).astype(float)
        assert np.abs(pixels - values / 257).max() <= 0.5 + 1e-9
    assert "any size" in read(page).text


def test_a_run_shows_what_its_network_got(finished, folder, tmp_path):
    page = show_run(finished, out=tmp_path / "run.html")
    same = show(words(folder), out=tmp_path / "same.html")
    assert {key: value.tobytes() for key, value in shown(page).items()} == {
        key: value.tobytes() for key, value in shown(same).items()
    }
    text = read(page).text
    assert str(finished) in text
    assert "not the images that the run was trained on" not in text


def test_other_data_for_a_run_keeps_its_geometry_and_is_called_other(finished, tmp_path):
    data = make_folder(tmp_path / "large", splits={"train": 4, "test": 4}, size=70)
    before = sorted(finished.rglob("*"))
    assert run("show", str(finished), f"data.root={data}", "split=test", str(tmp_path / "a.html")) == 0
    found = shown(tmp_path / "a.html")
    assert {pixels.shape for pixels in found.values()} == {(32, 32, 3)}
    assert "not the images that the run was trained on" in read(tmp_path / "a.html").text
    assert sorted(finished.rglob("*")) == before


def test_a_run_whose_images_changed_says_so(finished, folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "train" / "real" / "0000.jpg").unlink()
    text = read(show_run(finished, [f"data.root={copy}"], out=tmp_path / "a.html")).text
    assert "not the images that the run was trained on" in text


def test_an_augmentation_can_be_tried_on_a_run(finished, tmp_path):
    page = show_run(finished, ["augment=thumbnail"], out=tmp_path / "a.html")
    assert {caption for _, caption in shown(page)} == {"not augmented", "epoch 1", "epoch 2", "epoch 3"}


def test_no_weights_are_needed(folder, tmp_path):
    overrides = words(folder, "model.net.pretrained=true", f"weights={tmp_path / 'absent.ckpt'}")
    assert len(shown(show(overrides, out=tmp_path / "a.html"))) == 24


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["split=trian"], 2, "unknown value split=trian: did you mean train?"),
        (["--fast"], 2, "--fast is a flag, and there are none: tapetum show"),
        (["a.html", "b.html"], 1, "a.html and b.html: one run and one page at most"),
        (["nowhere"], 1, "nowhere is not a run"),
        (["data=gen-image"], 2, "unknown value data=gen-image"),
        (["data=folder", "data.root=nowhere"], 1, "is not a folder: type data.root="),
    ],
)
def test_wrong_words_are_explained(arguments, code, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run("show", *arguments) == code
    assert said in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.html"))


def test_an_empty_split_names_the_others(tmp_path, capsys):
    data = make_folder(tmp_path / "data", splits={"train": 4})
    assert run("show", *words(data, "data.val_fraction=0", "split=test")) == 1
    assert capsys.readouterr().err == f"error: the test split of {data} is empty: type split=train\n"


def test_without_training_images_the_first_split_there_is_is_shown(tmp_path):
    data = make_folder(tmp_path / "data", splits={"test": 4})
    assert "8 of 8 test images" in read(show(words(data), out=tmp_path / "a.html")).text


def test_a_runs_network_cannot_be_changed(finished, tmp_path, capsys):
    assert run("show", str(finished), "model=npr") == 2
    assert "model=npr would change the run's network" in capsys.readouterr().err
    assert run("show", str(finished), "model.geometry.size=64") == 2
    assert "model.geometry.size=64 would change the run's network" in capsys.readouterr().err


def test_a_run_cannot_bring_its_own_allow_list(finished, tmp_path, capsys):
    copy = shutil.copytree(finished, tmp_path / "run")
    config = (copy / "config.yaml").read_text()
    target = "tapetum.detectors.timm_backbone.TimmBackbone"
    assert target in config
    (copy / "config.yaml").write_text(
        config.replace(target, "own_parts.Plain").replace("allow_targets: []", "allow_targets: [own_parts]")
    )
    assert run("show", str(copy), str(tmp_path / "a.html")) == 2
    assert "own_parts" in capsys.readouterr().err


def test_a_page_that_cannot_be_written_says_why(folder, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert run("show", *words(folder), str(tmp_path / "file" / "a.html")) == 1
    assert f"the page {tmp_path / 'file' / 'a.html'} can't be written: " in capsys.readouterr().err
