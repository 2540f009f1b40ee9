"""The samples page: pixels come out as they went in, whatever their size, and every word is escaped."""

import numpy as np
import pytest
from tapetum.images.geometry import InputSpec
from tapetum.reports.samples import (
    MOST_PIXELS,
    Frame,
    Sample,
    SamplesPage,
    Unreadable,
    augment_steps,
    geometry_steps,
    write_samples,
)

from reports.pages import read
from reports.pictures import pictures

HOSTILE = '<script>alert("1")</script> & "quoted".png'


def page_of(samples, **changes):
    values = {
        "title": "npr_64-folder",
        "split": "train",
        "size": (8, 8),
        "channels": 3,
        "steps": ["It is squashed."],
        "counts": {"train": {"real": 1200, "generated": 3}, "test": {"real": 2}},
        "generators": [("real", None, {"train": 1200, "test": 2}), ("generated", "flux", {"train": 3})],
        "samples": samples,
        "unreadable": [],
    }
    return SamplesPage(**{**values, **changes})


def sample(*frames, label="real", path="a.png", generator=None):
    return Sample(label, generator, path, "8 × 8 PNG, 1 kB", frames)


def noise(height, width, channels=3, seed=0):
    shape = (height, width, channels) if channels == 3 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 5), (32, 32), (224, 224), (300, 40), (1024, 1024)])
@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_come_out_as_they_went_in_at_a_whole_multiple(tmp_path, height, width, channels):
    pixels = noise(height, width, channels)
    file = write_samples(page_of([sample(Frame("", pixels))]), tmp_path / "a.html")
    ((_, shown, found),) = pictures(file)
    assert np.array_equal(found, pixels)
    assert shown % width == 0
    times = shown // width
    assert times == max(1, 192 // max(height, width))
    assert (f"{width} × {height}, enlarged ×{times}" in read(file).text) == (times > 1)


def test_a_picture_of_more_than_a_megapixel_is_shown_smaller_and_says_so(tmp_path):
    pixels = noise(1500, 1100)
    file = write_samples(page_of([sample(Frame("", pixels))]), tmp_path / "a.html")
    ((_, shown, found),) = pictures(file)
    assert found.shape == (750, 550, 3)
    assert found.shape[0] * found.shape[1] <= MOST_PIXELS
    assert shown == 550
    assert np.allclose(found[0, 0], pixels[:2, :2].mean(axis=(0, 1)), atol=1)
    assert "1100 × 1500, shown at 1/2" in read(file).text


def test_a_sample_shows_its_frames_side_by_side_with_their_captions(tmp_path):
    frames = [Frame(name, noise(8, 8, seed=at)) for at, name in enumerate(("not augmented", "epoch 1"))]
    file = write_samples(page_of([sample(*frames, path="x/b.png")]), tmp_path / "a.html")
    found = pictures(file)
    assert [alt for alt, _, _ in found] == ["x/b.png, not augmented", "x/b.png, epoch 1"]
    assert all(
        np.array_equal(pixels, frame.pixels) for (_, _, pixels), frame in zip(found, frames, strict=True)
    )
    assert read(file).text.count("8 × 8, enlarged ×16") == 1  # of the same size, said once


def test_the_page_says_everything_and_is_well_formed(tmp_path):
    samples = [
        sample(Frame("", noise(8, 8))),
        sample(Frame("", noise(8, 8)), label="generated", generator="flux", path="f.png"),
    ]
    source = page_of(
        samples,
        unreadable=[Unreadable("generated", "flux", "broken.png", "the file is empty (0 bytes)")],
        notes=["exact duplicates removed: 4"],
        limits=["1 image of the 3 drawn could not be read; the reasons stand below."],
        facts=[("seed", "42")],
        command="tapetum show data=folder",
    )
    page = read(write_samples(source, tmp_path / "a.html"))
    assert page.problems == []
    for words in (
        "2 of 1,203 train images",
        "exact duplicates removed: 4",
        "1 image of the 3 drawn",
        "Real 1 of 1,200 train images",
        "Generated 1 of 3 train images",
        "broken.png the file is empty (0 bytes)",
        "generated flux 3 –",
        "tapetum show data=folder",
    ):
        assert words in page.text, words
    assert not [value for _, value in page.attributes if value and value.startswith(("http", "//", "file:"))]


def test_names_from_the_disk_are_escaped(tmp_path):
    hostile = sample(Frame("", noise(8, 8)), label="generated", path=HOSTILE, generator=HOSTILE)
    broken = Unreadable("real", None, HOSTILE, HOSTILE)
    source = page_of([hostile], unreadable=[broken], title=HOSTILE, command=HOSTILE, notes=[HOSTILE])
    page = read(write_samples(source, tmp_path / "a.html"))
    assert page.problems == []
    assert "script" not in page.tags
    assert HOSTILE in page.text


def test_a_page_without_a_readable_image_says_so(tmp_path):
    source = page_of([], unreadable=[Unreadable("real", None, "a.png", "truncated")])
    assert (
        "None of the images that were drawn could be read" in read(write_samples(source, tmp_path / "a")).text
    )


def test_a_page_is_replaced_whole_and_leaves_nothing_beside_it(tmp_path):
    out = tmp_path / "new" / "folder" / "a.html"
    assert write_samples(page_of([]), out) == out
    write_samples(page_of([], title="second"), out)
    assert "second" in out.read_text()
    assert [one.name for one in out.parent.iterdir()] == ["a.html"]
    with pytest.raises(OSError, match="directory"):
        write_samples(page_of([]), out.parent)
    assert [one.name for one in out.parent.parent.iterdir()] == ["folder"]


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (
            InputSpec(size=(64, 48)),
            "It is squashed to 48 × 64, whatever its aspect ratio (bilinear, ",
        ),
        (
            InputSpec(size=(64, 48), resize="shortest", interpolation="nearest"),
            "Its shorter side is scaled to 48 pixels (nearest).",
        ),
        (InputSpec(size=(64, 48), resize="pad"), "It is scaled to fit into 48 × 64"),
        (InputSpec(size=(64, 48), resize="tile"), "If it is smaller than 48 × 64, it is repeated"),
        (InputSpec(size=None, resize="none"), "It keeps its size"),
        (InputSpec(size=(64, 64), crop=(48, 40)), "The middle 40 × 48 is cut out"),
        (InputSpec(size=(64, 64), channels=1), "one channel, grey or infrared"),
    ],
)
def test_geometry_is_told_in_words(spec, said):
    assert said in " ".join(geometry_steps(spec, "fast"))


def test_an_augmentation_is_told_as_it_would_be_written():
    node = {
        "_target_": "tapetum.images.augment.Augment",
        "before_crop": [{"_target_": "tapetum.images.degradations.RandomJpeg", "quality": [30, 100]}],
        "after_crop": [
            {
                "_target_": "torchvision.transforms.v2.RandomApply",
                "transforms": [{"_target_": "torchvision.transforms.v2.RandomCrop", "size": 32}],
            }
        ],
        "enlarge": 8,
        "crop": "random",
    }
    said = augment_steps(node, InputSpec(size=(32, 40)))
    assert said == [
        "In training the resize goes to 48 × 40.",
        "In training, before the crop: RandomJpeg(quality=[30,100]).",
        "In training the crop to 40 × 32 lies at a random place.",
        "In training, after the crop: RandomApply(transforms=[RandomCrop(size=32)]).",
    ]
    nothing = {"before_crop": [], "after_crop": [], "enlarge": 0, "crop": "center"}
    assert augment_steps(nothing, InputSpec(size=(32, 32))) == []


def test_a_random_crop_without_room_says_what_gives_it_some():
    (said,) = augment_steps({"crop": "random"}, InputSpec(size=(32, 32)))
    assert said.endswith("of which there is only one: augment.enlarge=8 gives it room.")
