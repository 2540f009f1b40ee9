"""An index layout: what lies on the disk becomes a table with one row an image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tapetum.errors import DataError
from tapetum.indexes.table import Listing, to_table
from tapetum.indexes.walk import images_below

COLUMNS = ("path", "group", "label", "generator")
"""The columns that the layout gives; `tapetum check` reads them without importing this file."""


def twins(
    root: Path, *, real: Sequence[str] = ("real",), generated: Sequence[str] = ("generated",)
) -> Listing:
    """Each real image beside its regenerated twins: `cat_real.png`, `cat_flux.png`, at any depth.

    real, generated: what may stand behind the last `_` of a name; of generated images it is the generator's
    name. What stands before it is the group, which is never parted into train and validation: a detector must
    not recognise a scene. Raises DataError for a name that ends otherwise.
    """
    labels = dict.fromkeys(real, 0) | dict.fromkeys(generated, 1)
    notes: Counter[str] = Counter()
    paths = images_below(root, notes)
    endings = [Path(path).stem.rpartition("_")[2] for path in paths]
    for path, ending in zip(paths, endings, strict=True):
        if ending not in labels:
            raise DataError(
                f"{root / path} ends in _{ending}, and known are {', '.join(f'_{name}' for name in labels)}: "
                f"rename it, or type 'data.index.generated=[{ending}]' with all names of that class"
            )
    table = to_table(
        {
            "path": paths,
            "group": [path.rpartition("_")[0] for path in paths],
            "label": [labels[ending] for ending in endings],
            "generator": [ending if labels[ending] else None for ending in endings],
        }
    )
    return Listing(table, watched=(root,), notes=notes)
