"""Tiny data in the true on-disk layouts, the same on every machine.

Real images are smooth ramps of colour with noise; generated ones are the same with a checkerboard over them,
so that a network can learn the difference in a few steps. Every image is a function of (seed, split, class,
number).
"""

from __future__ import annotations

import csv
import io
import json
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

SPLITS = {"train": 24, "val": 8, "test": 8}


def make_image(path: Path, *, generated: bool, seed: tuple[int, ...] | int = 0, size: int = 32) -> Path:
    """One image of size x size pixels; the ending of path says its format."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size] / size
    ramp = rng.uniform(-60, 60, 3) * rows[..., None] + rng.uniform(-60, 60, 3) * columns[..., None]
    pixels = rng.uniform(90, 160, 3) + ramp + rng.normal(0, 4, (size, size, 3))
    if generated:
        board = np.indices((size, size)).sum(axis=0) % 2 * 2 - 1
        pixels += 12 * board[..., None]
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    options = {"quality": 95} if path.suffix.lower() in (".jpg", ".jpeg") else {}
    image.save(path, **options)
    return path


def make_folder(
    root: Path,
    *,
    splits: Mapping[str, int] | None = None,
    real: str = "real",
    generated: str = "ai_generated",
    suffix: str = ".jpg",
    size: int = 32,
    seed: int = 0,
) -> Path:
    """`<split>/<class>/0000.jpg`, so many images a split and class; the split "" puts classes below root."""
    for number, (split, count) in enumerate((SPLITS if splits is None else splits).items()):
        for label, name in enumerate((real, generated)):
            for image in range(count):
                file = root / split / name / f"{image:04d}{suffix}"
                make_image(file, generated=bool(label), seed=(seed, number, label, image), size=size)
    return root


def make_cifake(
    root: Path, *, splits: Mapping[str, int] | None = None, copies: int = 0, seed: int = 0
) -> Path:
    """`train|test/REAL|FAKE/0000 (k).jpg`, 32 x 32; the first `copies` of test/FAKE are in train/FAKE too."""
    splits = {"train": 24, "test": 8} if splits is None else splits
    for number, (split, count) in enumerate(splits.items()):
        for label, name in enumerate(("REAL", "FAKE")):
            for image in range(count):
                file = root / split / name / f"{image:04d} ({image % 10 + 1}).jpg"
                make_image(file, generated=bool(label), seed=(seed, number, label, image))
    for image in range(copies):
        name = f"{image:04d} ({image % 10 + 1}).jpg"
        (root / "train" / "FAKE" / f"copy {name}").write_bytes((root / "test" / "FAKE" / name).read_bytes())
    return root


def make_manifest(
    root: Path, *, file: str = "manifest.csv", splits: Mapping[str, int] | None = None, seed: int = 0
) -> Path:
    """Images below `images/` and a csv or parquet list with path, label, split, generator, group."""
    rows = []
    for number, (split, count) in enumerate((SPLITS if splits is None else splits).items()):
        for label, name in enumerate(("real", "fake")):
            for image in range(count):
                path = f"images/{split}, {name} {image:04d}.png"  # a comma, so that csv must quote
                make_image(root / path, generated=bool(label), seed=(seed, number, label, image))
                generator = ("gan_a", "gan_b")[image % 2] if label else None
                rows.append(
                    {
                        "path": path,
                        "label": name,
                        "split": split,
                        "generator": generator,
                        "group": f"{split}{image}",
                    }
                )
    if file.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), root / file)
    else:
        with (root / file).open("w", newline="", encoding="utf-8") as lines:
            writer = csv.DictWriter(lines, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return root


def make_hf(
    root: Path,
    *,
    splits: Mapping[str, int] | None = None,
    names: tuple[str, ...] = ("FAKE", "REAL"),
    embedded: bool = True,
    card: bool = True,
    seed: int = 0,
) -> Path:
    """`README.md` and `data/train-00000-of-00002.parquet` as `datasets` writes them, image and label.

    names: in the order of their numbers. embedded: they are in the parquet files; card: in README.md.
    """
    splits = {"train": 24, "validation": 8, "test": 8} if splits is None else splits
    (root / "data").mkdir(parents=True, exist_ok=True)
    features = {"image": {"_type": "Image"}, "label": {"names": list(names), "_type": "ClassLabel"}}
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("image", image), ("label", pa.int64())])
    if embedded:
        schema = schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    for number, (split, count) in enumerate(splits.items()):
        rows = []
        for name in range(count):
            for label, kind in enumerate(names):
                file = root / ".made.jpg"
                make_image(file, generated=kind == "FAKE", seed=(seed, number, label, name))
                image_of = {"bytes": file.read_bytes(), "path": f"{name:04d}.jpg"}
                rows.append({"image": image_of, "label": label})
        shards = 2 if split == "train" else 1
        for shard in range(shards):
            table = pa.Table.from_pylist(rows[shard::shards], schema=schema)
            file = root / "data" / f"{split}-{shard:05d}-of-{shards:05d}.parquet"
            pq.write_table(table, file, row_group_size=10)
    (root / ".made.jpg").unlink(missing_ok=True)
    if card:
        numbered = "".join(f"\n          '{number}': {name}" for number, name in enumerate(names))
        listed = "".join(f"\n  - split: {split}\n    path: data/{split}-*" for split in splits)
        (root / "README.md").write_text(
            "---\nlicense: mit\ndataset_info:\n  features:\n  - name: image\n    dtype: image\n"
            f"  - name: label\n    dtype:\n      class_label:\n        names:{numbered}\n"
            f"configs:\n- config_name: default\n  data_files:{listed}\n---\n# A data set\n"
        )
    return root


def make_tars(root: Path, *, splits: Mapping[str, int] | None = None, seed: int = 0) -> Path:
    """WebDataset shards `train-000000.tar`: `00000.jpg` and `00000.json` with label and generator."""
    root.mkdir(parents=True, exist_ok=True)
    for number, (split, count) in enumerate((SPLITS if splits is None else splits).items()):
        for shard in range(2):
            with tarfile.open(root / f"{split}-{shard:06d}.tar", "w") as archive:
                for name in range(shard, count, 2):
                    for label, kind in enumerate(("real", "fake")):
                        key = f"{kind}{name:05d}"
                        image = root / f"{key}.jpg"
                        make_image(image, generated=bool(label), seed=(seed, number, label, name))
                        beside = {"label": kind, "generator": "gan" if label else None}
                        text = json.dumps(beside).encode()
                        for ending, content in ((".jpg", image.read_bytes()), (".json", text)):
                            member = tarfile.TarInfo(key + ending)
                            member.size = len(content)
                            archive.addfile(member, io.BytesIO(content))
                        image.unlink()
    return root


def make_tar_of(folder: Path, archive: Path) -> Path:
    """A plain archive of a folder, `<folder>/train/REAL/…`, as `tar -cf cifake.tar cifake` makes it."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "w") as opened:
        opened.add(folder, folder.name)
    return archive


def _make_leaf(
    root: Path, folder: str, count: int, *, label: int, suffix: str = ".png", seed: int = 0
) -> None:
    """So many images of one class in a folder below root, other ones than in every other folder."""
    place = zlib.crc32(folder.encode())
    for image in range(count):
        file = root / folder / f"{image:04d}{suffix}"
        make_image(file, generated=bool(label), seed=(seed, place, image))


def make_genimage(
    root: Path,
    *,
    generators: tuple[str, ...] = ("ADM", "stable_diffusion_v_1_4"),
    splits: Mapping[str, int] | None = None,
    archives: bool = True,
    empty: int = 0,
    seed: int = 0,
) -> Path:
    """`<generator>/[imagenet_ai_0419_*/]train|val/ai|nature`: PNG generated, ImageNet's `.JPEG` real.

    archives: with the level of the real archives. empty: so many files of zero bytes in each train/ai.
    """
    inner = {
        "ADM": "imagenet_ai_0508_adm",
        "BigGAN": "imagenet_ai_0419_biggan",
        "Midjourney": "imagenet_midjourney",
        "VQDM": "imagenet_ai_0419_vqdm",
        "glide": "imagenet_glide",
        "stable_diffusion_v_1_4": "imagenet_ai_0419_sdv4",
        "stable_diffusion_v_1_5": "imagenet_ai_0424_sdv5",
        "wukong": "imagenet_ai_0424_wukong",
    }
    for generator in generators:
        folder = f"{generator}/{inner[generator]}" if archives else generator
        for split, count in ({"train": 24, "val": 8} if splits is None else splits).items():
            for label, (name, suffix) in enumerate((("nature", ".JPEG"), ("ai", ".PNG"))):
                _make_leaf(root, f"{folder}/{split}/{name}", count, label=label, suffix=suffix, seed=seed)
        for number in range(empty):
            (root / folder / "train" / "ai" / f"empty_{number}.png").write_bytes(b"")
    return root


def make_forensynths(
    root: Path,
    *,
    classes: tuple[str, ...] = ("car", "cat", "train"),
    tests: tuple[str, ...] = ("progan/airplane", "progan/train", "biggan", "san"),
    counts: Mapping[str, int] | None = None,
    seed: int = 0,
) -> Path:
    """`train|val/<class>/0_real|1_fake` and `test/<generator>/[<class>/]0_real|1_fake`."""
    counts = {"train": 12, "val": 3, "test": 3} if counts is None else counts
    for split, count in counts.items():
        for name in tests if split == "test" else classes:
            for label, kind in enumerate(("0_real", "1_fake")):
                _make_leaf(root, f"{split}/{name}/{kind}", count, label=label, seed=seed)
    return root


def make_univfd(
    root: Path,
    *,
    generators: tuple[str, ...] = ("guided", "ldm_200", "glide_100_27", "dalle"),
    own_reals: tuple[str, ...] = (),
    count: int = 3,
    seed: int = 0,
) -> Path:
    """ForenSynths, and `diffusion_datasets/<generator>/1_fake` beside `imagenet|laion/0_real`.

    own_reals: generators with a `0_real` of their own, as in NPR's copy.
    """
    make_forensynths(root, seed=seed)
    for name in ("imagenet", "laion"):
        _make_leaf(root, f"diffusion_datasets/{name}/0_real", count, label=0, suffix=".jpg", seed=seed)
    for name in generators:
        _make_leaf(root, f"diffusion_datasets/{name}/1_fake", count, label=1, seed=seed)
    for name in own_reals:
        _make_leaf(root, f"diffusion_datasets/{name}/0_real", count, label=0, seed=seed)
    return root


def make_aigcdetectbenchmark(root: Path, *, seed: int = 0) -> Path:
    """ForenSynths' training images and test folders in the benchmark's own spelling and another."""
    tests = ("progan/airplane", "whichfaceisreal", "ADM", "Glide", "stable_diffusion_v_1_4", "dalle2")
    return make_forensynths(root, tests=tests, seed=seed)


def make_aigibench(root: Path, *, seed: int = 0) -> Path:
    """`train|val/{car,horse,sdv1.4}/0_real|1_fake` and test folders such as `FLUX1-dev`."""
    return make_forensynths(
        root, classes=("car", "horse", "sdv1.4"), tests=("ProGAN", "FLUX1-dev", "SocialRF"), seed=seed
    )


def make_wildrf(root: Path, *, seed: int = 0) -> Path:
    """`train|val/0_real|1_fake` and `test/reddit|twitter|facebook/0_real|1_fake`."""
    places = {"train": 16, "val": 4, **dict.fromkeys(("test/reddit", "test/twitter", "test/facebook"), 3)}
    for place, count in places.items():
        for label, kind in enumerate(("0_real", "1_fake")):
            _make_leaf(root, f"{place}/{kind}", count, label=label, seed=seed)
    return root


def make_community_forensics(root: Path, *, train: int = 12, seed: int = 0) -> Path:
    """`train|test/<generator>/real|fake`: two sources with real images only, and generators."""
    for split, count in {"train": train, "test": 3}.items():
        for name in ("LAION", "ImageNet"):
            _make_leaf(root, f"{split}/{name}/real", count, label=0, suffix=".jpg", seed=seed)
        for name in ("stabilityai/sdxl", "FFHQ-StyleGAN3"):
            _make_leaf(root, f"{split}/{name}/fake", count, label=1, seed=seed)
        _make_leaf(root, f"{split}/FFHQ-StyleGAN3/real", count, label=0, seed=seed)
    return root


def make_drct(root: Path, coco: Path, *, seed: int = 0) -> Path:
    """`<generator>/train2017|val2017` below root, and MS COCO's `train2017|val2017` below coco."""
    for year, count in {"train2017": 24, "val2017": 4}.items():
        _make_leaf(coco, year, count, label=0, suffix=".jpg", seed=seed)
        for name in ("stable-diffusion-v1-4", "sdxl-turbo"):
            _make_leaf(root, f"{name}/{year}", count, label=1, seed=seed)
            _make_leaf(root, f"{name}/full_inpainting/{year}", 1, label=1, seed=seed)
    return root


def make_peer_list(root: Path, *, file: str = "list.csv", seed: int = 0) -> Path:
    """A list as other projects keep them, by its name.

    list.csv: `filename,typ`, which is `real` or a generator. labels.csv: `filename,label`. list.json: objects
    with `path` and `label`.
    """
    rows = []
    for number, name in enumerate(("real", "adm", "sdxl") * 8):
        path = f"images/{name}_{number:04d}.png"
        make_image(root / path, generated=name != "real", seed=(seed, number))
        rows.append((path, name))
    if file.endswith(".json"):
        listed = [{"path": path, "label": int(name != "real")} for path, name in rows]
        (root / file).write_text(json.dumps(listed))
        return root
    with (root / file).open("w", newline="") as lines:
        writer = csv.writer(lines)
        if file == "labels.csv":
            writer.writerows([("filename", "label"), *((path, int(name != "real")) for path, name in rows)])
        else:
            writer.writerows([("filename", "typ"), *rows])
    return root
