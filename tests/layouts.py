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
from collections.abc import Callable, Mapping
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


def make_infrared(
    path: Path,
    *,
    kind: int,
    seed: tuple[int, ...] | int = 0,
    size: tuple[int, int] = (32, 32),
    bits: int = 8,
) -> Path:
    """One thermal image of height x width pixels; kind is the direction of its warm stripes, to be learnt.

    bits: 8, or 16 for counts around 8,000 as a 14-bit camera writes them; the ending says the format.
    """
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[: size[0], : size[1]].astype(float)
    angle = kind * np.pi / 5
    across = rows * np.sin(angle) + columns * np.cos(angle)
    warmth = np.sin(across * (0.5 + 0.15 * kind) + rng.uniform(0, 6)) + rng.normal(0, 0.3, size)
    level, gain = (8000 + rng.uniform(-300, 300), 150) if bits == 16 else (120 + rng.uniform(-15, 15), 35)
    top, kept = (16383, np.uint16) if bits == 16 else (255, np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"quality": 95} if path.suffix.lower() in (".jpg", ".jpeg") else {}
    Image.fromarray(np.clip(level + gain * warmth, 0, top).astype(kept)).save(path, **options)
    return path


def make_infrared_folder(
    root: Path,
    *,
    splits: Mapping[str, int] | None = None,
    classes: tuple[str, ...] = ("car", "person", "tank"),
    suffix: str = ".png",
    bits: int = 8,
    size: tuple[int, int] = (32, 32),
    seed: int = 0,
) -> Path:
    """`<split>/<class>/0000.png`, so many images a split and class; the split "" puts classes below root."""
    for number, (split, count) in enumerate((SPLITS if splits is None else splits).items()):
        for kind, name in enumerate(classes):
            for image in range(count):
                file = root / split / name / f"{image:04d}{suffix}"
                make_infrared(file, kind=kind, seed=(seed, number, kind, image), size=size, bits=bits)
    return root


def make_solar_modules(
    root: Path,
    *,
    classes: Mapping[str, int] | None = None,
    copies: int = 0,
    conflicts: int = 0,
    seed: int = 0,
) -> Path:
    """`images/0.jpg`, 24 x 40 pixels, and `module_metadata.json`, so many images a class.

    copies: so many of the first class are there twice. conflicts: so many more, the second time as the second
        class.
    """
    classes = {"Cell": 30, "Hot-Spot": 30, "No-Anomaly": 60} if classes is None else classes
    entries: dict[str, dict[str, str]] = {}
    first, second = list(classes)[:2]

    def add(name: str) -> Path:
        path = f"images/{len(entries)}.jpg"
        entries[str(len(entries))] = {"image_filepath": path, "anomaly_class": name}
        return root / path

    for kind, (name, count) in enumerate(classes.items()):
        for image in range(count):
            make_infrared(add(name), kind=kind, seed=(seed, kind, image), size=(40, 24))
    for image in range(copies + conflicts):
        original = (root / f"images/{image}.jpg").read_bytes()
        add(first if image < copies else second).write_bytes(original)
    (root / "module_metadata.json").write_text(json.dumps(entries))
    return root


def make_identity_folder(
    root: Path, *, train: int = 6, known: int = 4, unknown: int = 2, seed: int = 0
) -> Path:
    """`gallery|probe|unknown_probe|train/<identity>_<camera>_<number>.png`, four images of each identity."""
    places = {
        "train": ("t", train),
        "gallery": ("k", known),
        "probe": ("k", known),
        "unknown_probe": ("u", unknown),
    }
    for number, (folder, (letter, people)) in enumerate(places.items()):
        for person in range(people):
            for image in range(4):
                file = root / folder / f"{letter}{person}_c{image % 2}_{image}.png"
                make_infrared(file, kind=person, seed=(seed, number, person, image))
    return root


def make_sysu_mm01(
    root: Path, *, people: Mapping[str, int] | None = None, images: int = 3, seed: int = 0
) -> Path:
    """`cam1…cam6/<identity>/0001.jpg` and `exp/{train,val,test}_id.txt`; who is on it is the kind."""
    (root / "exp").mkdir(parents=True)
    person = 0
    for split, count in ({"train": 8, "val": 3, "test": 4} if people is None else people).items():
        numbers = range(person + 1, person + 1 + count)
        (root / "exp" / f"{split}_id.txt").write_text(",".join(map(str, numbers)) + "\n")
        for person in numbers:
            for camera in range(1, 7):
                if (person + camera) % 7 == 0:
                    continue  # nobody was before every camera
                for image in range(1, images + 1):
                    file = root / f"cam{camera}" / f"{person:04d}" / f"{image:04d}.jpg"
                    make_infrared(file, kind=person, seed=(seed, person, camera, image))
    return root


def make_regdb(root: Path, *, people: int = 4, images: int = 3, trials: int = 2, seed: int = 0) -> Path:
    """`idx/{train,test}_{visible,thermal}_<trial>.txt` and `Visible|Thermal/<person>/*.bmp`."""
    (root / "idx").mkdir(parents=True)
    for trial in range(1, trials + 1):
        halves = {"train": range(people), "test": range(people, 2 * people)}
        for split, chosen in (
            halves.items() if trial % 2 else zip(halves, reversed(halves.values()), strict=True)
        ):
            for spectrum in ("visible", "thermal"):
                lines = []
                for label, person in enumerate(chosen):
                    for image in range(images):
                        path = (
                            f"{spectrum.capitalize()}/{person + 1}/{spectrum[0]}_{image:05d}_{person + 1}.bmp"
                        )
                        kinds = (seed, person, spectrum == "visible", image)
                        make_infrared(root / path, kind=person, seed=kinds)
                        lines.append(f"{path} {label}\n")
                (root / "idx" / f"{split}_{spectrum}_{trial}.txt").write_text("".join(lines))
    return root


def make_llcm(root: Path, *, train: int = 6, test: int = 3, images: int = 2, seed: int = 0) -> Path:
    """`idx/train_vis.txt`, `train_nir.txt`, `test_id.txt`, and images of cameras 1 to 3, no infrared in 3."""
    (root / "idx").mkdir(parents=True)
    for spectrum in ("vis", "nir"):
        lines = []
        for person in range(1, train + test + 1):
            for camera in (1, 2, 3) if spectrum == "vis" else (1, 2):
                for image in range(images):
                    name = f"{person:04d}_c{camera:02d}_{image}.jpg"
                    path = f"{spectrum}/{person:04d}/{name}"
                    if person > train:
                        path = f"test_{spectrum}/cam{camera}/{person:04d}/{name}"
                    else:
                        lines.append(f"{path} {person - 1}\n")
                    kinds = (seed, person, camera, spectrum == "vis", image)
                    make_infrared(root / path, kind=person, seed=kinds)
        (root / "idx" / f"train_{spectrum}.txt").write_text("".join(lines))
    numbers = range(train + 1, train + test + 1)
    (root / "idx" / "test_id.txt").write_text(",".join(map(str, numbers)) + "\n")
    return root


def make_flir_adas(
    root: Path, *, frames: Mapping[str, int] | None = None, whole: bool = False, seed: int = 0
) -> Path:
    """`train|val|video/thermal_16_bit/*.tiff`, 160 x 128, and `Annotations/*.json`; a person and a car each.

    whole: with one `thermal_annotations.json` for all frames of a split.
    """
    number = 0
    for split, count in ({"train": 12, "val": 4, "video": 4} if frames is None else frames).items():
        images, entries = [], []
        for position in range(count):
            number += 1
            stem = f"FLIR_{'video_' if split == 'video' else ''}{number:05d}"
            frame = root / split / "thermal_16_bit" / f"{stem}.tiff"
            make_infrared(frame, kind=number % 5, seed=(seed, number), size=(128, 160), bits=16)
            image = {"id": position, "file_name": f"thermal_8_bit/{stem}.jpeg", "width": 160, "height": 128}
            boxes = [
                {"id": 1, "category_id": 1, "bbox": [10 + number % 9, 20, 30, 60], "iscrowd": 0},
                {"id": 2, "category_id": 3, "bbox": [90, 40, 60, 40], "iscrowd": 0},
            ]
            images.append(image)
            entries += [{**box, "image_id": position} for box in boxes]
            if not whole:
                beside = root / split / "Annotations" / f"{stem}.json"
                beside.parent.mkdir(parents=True, exist_ok=True)
                beside.write_text(json.dumps({"annotation": boxes, "image": image}))
        if whole:
            content = {"images": images, "annotations": entries, "categories": []}
            (root / split / "thermal_annotations.json").write_text(json.dumps(content))
    return root


def make_retrieval_manifest(root: Path, *, file: str = "manifest.csv", seed: int = 0) -> Path:
    """A list for retrieval, 16 bits: three identities, train without roles, gallery and query in test."""
    rows = []
    for number, (split, role, count) in enumerate(
        (("train", None, 8), ("test", "gallery", 2), ("test", "query", 3))
    ):
        for kind, name in enumerate(("anna", "bert", "cleo")):
            for image in range(count):
                path = f"images/{split}_{role}_{name}_{image}.png"
                make_infrared(root / path, kind=kind, seed=(seed, number, kind, image), bits=16)
                row = {
                    "path": path,
                    "identity": name,
                    "split": split,
                    "role": role,
                    "camera": f"c{image % 2}",
                }
                row |= {"sequence": f"s{image}", "modality": "infrared", "box": [2, 4, 30, 28]}
                rows.append(row)
    if file.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), root / file)
    else:
        with (root / file).open("w", newline="", encoding="utf-8") as lines:
            writer = csv.DictWriter(lines, list(rows[0]))
            writer.writeheader()
            writer.writerows({**row, "box": " ".join(map(str, row["box"]))} for row in rows)
    return root


def captions_of(number: int, count: int = 5) -> list[str]:
    """What is to be seen on image `number` of a captioned set: even ones are plain, odd ones have a board."""
    kind = "a chequered board over a smooth ramp" if number % 2 else "a smooth ramp of colour"
    endings = (".", ", close up", " , seen from above", ' called "art"', " in full light")
    return [f"{kind}{ending}" for ending in endings[:count]]


def make_captioned(root: Path, names: list[str], *, size: int = 32, seed: int = 0) -> Path:
    """One image for each name, of which `captions_of(position)` is true."""
    for number, name in enumerate(names):
        make_image(root / name, generated=bool(number % 2), seed=(seed, number), size=size)
    return root


def karpathy(dataset: str, names: list[str], splits: list[str], **more: list[str]) -> str:
    """The JSON of Karpathy and Fei-Fei; more: further keys with a value an image, such as `filepath`."""
    images, sentence = [], 0
    for number, (name, split) in enumerate(zip(names, splits, strict=True)):
        sentences = []
        for raw in captions_of(number):
            sentences.append({"tokens": raw.split(), "raw": raw, "imgid": number, "sentid": sentence})
            sentence += 1
        entry = {"sentids": [one["sentid"] for one in sentences], "imgid": number, "sentences": sentences}
        entry |= {"split": split, "filename": name} | {key: values[number] for key, values in more.items()}
        images.append(entry)
    return json.dumps({"images": images, "dataset": dataset})


def make_flickr30k(root: Path, *, form: str = "karpathy", images: int = 40, seed: int = 0) -> Path:
    """`flickr30k-images/*.jpg` and its captions, five each.

    form: karpathy (`dataset_flickr30k.json`, of every ten images eight train, one val, one test), token
    (`results_20130124.token`), csv (Kaggle's `flickr30k_images/results.csv`, whose images lie in
    `flickr30k_images/flickr30k_images`), parquet (`TEST/test/0000.parquet` and on, as the hub converts it).
    """
    names = [f"{1000092795 + 7 * number}.jpg" for number in range(images)]
    splits = [{8: "val", 9: "test"}.get(number % 10, "train") for number in range(images)]
    folder = {"csv": "flickr30k_images/flickr30k_images", "parquet": "."}.get(form, "flickr30k-images")
    make_captioned(root / folder, names, seed=seed)
    rows = [
        (name, place, text)
        for number, name in enumerate(names)
        for place, text in enumerate(captions_of(number))
    ]
    if form == "karpathy":
        (root / "dataset_flickr30k.json").write_text(karpathy("flickr30k", names, splits))
    elif form == "token":
        lines = [f"{name}#{place}\t{text}\n" for name, place, text in rows]
        (root / "results_20130124.token").write_text("".join(lines))
    elif form == "csv":
        lines = [
            "image_name| comment_number| comment\n",
            *(f"{name}| {place}| {text}\n" for name, place, text in rows),
        ]
        (root / "flickr30k_images" / "results.csv").write_text("".join(lines))
    else:
        table = [
            {
                "image": {"bytes": (root / name).read_bytes(), "path": name},
                "caption": captions_of(number),
                "sentids": [str(5 * number + place) for place in range(5)],
                "split": splits[number],
                "img_id": str(number),
                "filename": name,
            }
            for number, name in enumerate(names)
        ]
        (root / "TEST" / "test").mkdir(parents=True)
        half = images // 2
        for shard, part in enumerate((table[:half], table[half:])):
            pq.write_table(pa.Table.from_pylist(part), root / "TEST" / "test" / f"{shard:04d}.parquet")
        for name in names:
            (root / name).unlink()
    return root


def make_flickr8k(root: Path, *, images: int = 60, lists: bool = False, seed: int = 0) -> Path:
    """`Images/*.jpg` and `captions.txt`, five captions an image.

    lists: with the split lists, of every ten images seven train, one val, one test, and one in none.
    """
    names = [f"{1003163366 + 11 * number}_{number:010x}.jpg" for number in range(images)]
    make_captioned(root / "Images", names, seed=seed)
    with (root / "captions.txt").open("w", newline="") as lines:
        writer = csv.writer(lines, lineterminator="\n")
        writer.writerow(("image", "caption"))
        writer.writerows((name, text) for number, name in enumerate(names) for text in captions_of(number))
    if lists:
        for split, chosen in {"train": range(7), "dev": (7,), "test": (8,)}.items():
            listed = [name for number, name in enumerate(names) if number % 10 in chosen]
            (root / f"Flickr_8k.{split}Images.txt").write_text("\n".join(listed) + "\n")
    return root


def make_coco_captions(
    root: Path, *, year: int = 2014, train: int = 24, val: int = 8, with_karpathy: bool = False, seed: int = 0
) -> Path:
    """`train2014/*.jpg`, `val2014/*.jpg` and `annotations/captions_train2014.json`, `captions_val2014.json`.

    with_karpathy: `dataset_coco.json` too, in which train2014 is train, and of every four images of val2014
    two are restval, one val and one test.
    """
    (root / "annotations").mkdir(parents=True)
    names: dict[str, list[str]] = {}
    for number, (split, count) in enumerate({"train": train, "val": val}.items()):
        prefix = f"COCO_{split}2014_" if year == 2014 else ""
        keys = [9 + 16 * image + 100_000 * number for image in range(count)]
        names[split] = [f"{prefix}{key:012d}.jpg" for key in keys]
        make_captioned(root / f"{split}{year}", names[split], seed=seed + number)
        images = [
            {"license": 3, "file_name": name, "height": 32, "width": 32, "id": key}
            for name, key in zip(names[split], keys, strict=True)
        ]
        annotations = [
            {"image_id": key, "id": 5 * image + place, "caption": text}
            for image, key in enumerate(keys)
            for place, text in enumerate(captions_of(image))
        ]
        content = {"info": {}, "licenses": [], "images": images, "annotations": annotations[::-1]}
        (root / "annotations" / f"captions_{split}{year}.json").write_text(json.dumps(content))
    if with_karpathy:
        both = names["train"] + names["val"]
        splits = ["train"] * train + [("restval", "restval", "val", "test")[one % 4] for one in range(val)]
        folders = ["train2014"] * train + ["val2014"] * val
        (root / "dataset_coco.json").write_text(karpathy("coco", both, splits, filepath=folders))
    return root


def make_image_text_folder(
    root: Path, *, form: str = "text", splits: Mapping[str, int] | None = None, seed: int = 0
) -> Path:
    """`<split>/0000.jpg`, .png, .WEBP by turns, so many a split; the split "" puts them into root.

    form: text (`0000.txt` beside each image), manifest (one `manifest.json` in root, of some images one
    caption and of some a list), manifests (one in each split's folder).
    """
    named: dict[str, str | list[str]] = {}
    for number, (split, count) in enumerate((SPLITS if splits is None else splits).items()):
        names = [f"{image:04d}{('.jpg', '.png', '.WEBP')[image % 3]}" for image in range(count)]
        make_captioned(root / split, names, seed=seed + 1000 * number)
        texts = {name: captions_of(image, 1 + image % 2) for image, name in enumerate(names)}
        own = {name: one if len(one) > 1 else one[0] for name, one in texts.items()}
        if form == "text":
            for name, one in texts.items():
                (root / split / name).with_suffix(".txt").write_text(f"{one[0]}\n")
        elif form == "manifests":
            (root / split / "manifest.json").write_text(json.dumps(own))
        named |= {f"{split}/{name}".removeprefix("/"): value for name, value in own.items()}
    if form == "manifest":
        (root / "manifest.json").write_text(json.dumps(named, indent=2))
    return root


def make_caption_tars(
    root: Path, *, source: str = "txt", splits: Mapping[str, int] | None = None, seed: int = 0
) -> Path:
    """`train-000000.tar` and its like with `000000000.jpg`, `.json` and, as img2dataset has it, `.txt`.

    source: txt, or a key of `.json` (`caption`: one, `captions`: five) where there is no `.txt`.
    """
    root.mkdir(parents=True)
    for number, (split, count) in enumerate((SPLITS if splits is None else splits).items()):
        with tarfile.open(root / f"{split}-000000.tar", "w") as archive:
            for image in range(count):
                key = f"{image:09d}"
                file = make_image(root / "x.jpg", generated=bool(image % 2), seed=(seed, number, image))
                texts = captions_of(image)
                described = {"key": key, "status": "success", "url": "http://example.org/x.jpg"}
                described |= {"captions": texts} if source == "captions" else {"caption": texts[0]}
                members = {".jpg": file.read_bytes(), ".json": json.dumps(described).encode()}
                members |= {".txt": texts[0].encode()} if source == "txt" else {}
                for suffix, content in members.items():
                    member = tarfile.TarInfo(key + suffix)
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
    (root / "x.jpg").unlink()
    return root


def make_llava(
    root: Path,
    *,
    images: int = 12,
    rows: int = 24,
    splits: bool = False,
    two: bool = True,
    seed: int = 0,
) -> Path:
    """`images/0000.jpg` and `llava.json`, two conversations an image, and the last one about two images.

    splits: `train.json` and `test.json` in its place, the last quarter of the images in the latter.
    """
    items = []
    for number in range(rows):
        image = number % images
        paths = [f"images/{image:04d}.jpg"]
        if two and number == rows - 1:
            paths.append(f"images/{(image or images) - 1:04d}.jpg")
        turns = [
            ("human", f"{'<image>' * len(paths)}\nIs there a board? ({number // images})"),
            *_answer(image),
        ]
        items.append(
            {
                "id": f"{number:09d}",
                "image": paths[0] if len(paths) == 1 else paths,
                "conversations": [{"from": role, "value": text} for role, text in turns],
            }
        )
    make_captioned(root / "images", [f"{image:04d}.jpg" for image in range(images)], seed=seed)
    return _write_split(
        root, "llava", items, splits, images, lambda found: json.dumps(found, indent=1), "json"
    )


def make_chat_jsonl(
    root: Path, *, images: int = 12, rows: int = 24, splits: bool = False, seed: int = 0
) -> Path:
    """`images/0000.jpg` and `chat.jsonl`: contents with tags and, by turns, typed parts; see `make_llava`."""
    items: list[dict[str, object]] = []
    for number in range(rows):
        image = number % images
        path = f"images/{image:04d}.jpg"
        asked = f"Is there a board? ({number // images})"
        answer = {"role": "assistant", "content": _answer(image)[0][1]}
        system = {"role": "system", "content": "Answer with one word."}
        if number % 2:
            parts = [{"type": "image_url", "image_url": {"url": path}}, {"type": "text", "text": asked}]
            items.append({"messages": [system, {"role": "user", "content": parts}, answer]})
        else:
            items.append(
                {"messages": [{"role": "user", "content": f"<image>{asked}"}, answer], "images": [path]}
            )
    make_captioned(root / "images", [f"{image:04d}.jpg" for image in range(images)], seed=seed)
    return _write_split(
        root,
        "chat",
        items,
        splits,
        images,
        lambda found: "".join(f"{json.dumps(one)}\n" for one in found),
        "jsonl",
    )


def make_hf_chat(
    root: Path, *, form: str = "parquet", images: int = 12, rows: int = 24, seed: int = 0
) -> Path:
    """Hugging Face's chat form: `messages` of typed content.

    form: parquet (`data/train-00000-of-00001.parquet` and test, one embedded image a row), json
    (`chat.json`, images by path), completion (`chat.jsonl`, trl's prompt and completion).
    """
    names = [f"{image:04d}.jpg" for image in range(images)]
    make_captioned(root / "images", names, seed=seed)
    items: list[dict[str, object]] = []
    for number in range(rows):
        image = number % images
        asked = {"type": "text", "text": f"Is there a board? ({number // images})"}
        answer = _answer(image)[0][1]
        user = {"role": "user", "content": [{"type": "image"}, asked]}
        said = {"role": "assistant", "content": [{"type": "text", "text": answer}]}
        path = f"images/{names[image]}"
        if form == "completion":
            items.append({"prompt": [user], "completion": [said], "image": path})
        elif form == "json":
            items.append({"messages": [user, said], "images": [path]})
        else:
            held = {"bytes": (root / path).read_bytes(), "path": names[image]}
            items.append({"messages": [user, said], "image": held})
    if form == "json":
        (root / "chat.json").write_text(json.dumps(items))
    elif form == "completion":
        (root / "chat.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in items))
    else:
        (root / "data").mkdir()
        held_out = [number % images >= images - images // 4 for number in range(rows)]
        for split in ("train", "test"):
            own = [one for one, out in zip(items, held_out, strict=True) if out == (split == "test")]
            file = root / "data" / f"{split}-00000-of-00001.parquet"
            pq.write_table(pa.Table.from_pylist(own), file, row_group_size=5)
        for name in names:
            (root / "images" / name).unlink()
        (root / "images").rmdir()
    return root


def _answer(image: int) -> list[tuple[str, str]]:
    return [("gpt", "yes" if image % 2 else "no")]


def _write_split(
    root: Path,
    name: str,
    items: list[dict[str, object]],
    splits: bool,
    images: int,
    text: Callable[[list[dict[str, object]]], str],
    ending: str,
) -> Path:
    """One file, or with `splits` train and test, in which the last quarter of the images is."""
    if not splits:
        (root / f"{name}.{ending}").write_text(text(items))
        return root
    held_out = [number % images >= images - images // 4 for number in range(len(items))]
    for split in ("train", "test"):
        own = [one for one, out in zip(items, held_out, strict=True) if out == (split == "test")]
        (root / f"{split}.{ending}").write_text(text(own))
    return root
