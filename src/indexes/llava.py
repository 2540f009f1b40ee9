"""LLaVA's instruction data: a JSON list of conversations of `human` and `gpt` (Liu et al., NeurIPS 2023)."""

from __future__ import annotations

from pathlib import Path

from .captions import check_arguments
from .conversation_files import Annotations, annotation_files, image_paths, images_folder, json_items
from .messages import conversation, listed, objects_of, plain_text
from .table import Listing

COLUMNS: tuple[str, ...] = ("path", "further_images", "split", "group", "messages")

ORIGIN = "https://huggingface.co/datasets/liuhaotian/LLaVA-Instruct-150K"


def index(
    root: Path,
    *,
    annotations: Annotations = None,
    images: str | None = None,
    test_fraction: float = 0.1,
) -> Listing:
    """One row a conversation: `{"image": "a.jpg", "conversations": [{"from": "human", "value": …}, …]}`.

    annotations: the file, or `{train: FILE, test: FILE}`, relative to root. None: the `.json` file in root,
        or several whose names tell their splits. image: a path or a list of paths.
    images: the folder that these are relative to, itself relative to root; None: root.
    test_fraction: of files without splits, by a hash of the image: conversations about one image stay
        together.

    Raises MissingFolder, DataError that names the item for whatever is not so, also for a row without an
    image and for one whose images are not as many as its `<image>` tags. Whether the images are there is
    checked when the index is built.
    """
    check_arguments("keep", test_fraction)
    folder = images_folder(root, images)
    files = annotation_files(root, annotations, (".json",))
    rows = []
    for file, split in files:
        for where, row in json_items(file):
            turns = []
            for number, one in enumerate(objects_of(row.get("conversations"), "conversations", where)):
                place = f"message {number} of {where}"
                role, content = (plain_text(one.get(key), f"{key} of {place}") for key in ("from", "value"))
                turns.append((role, content))
            paths = image_paths(row.get("image"), folder, root, where)
            rows.append(conversation(turns, paths, where, split))
    return listed(rows, watched=(root, *(file for file, _ in files)), notes={}, test_fraction=test_fraction)
