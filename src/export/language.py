"""A tuned vision-language model as Hugging Face's libraries load it: its adapter, or one whole model."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..backbones import adapters
from ..errors import ConfigError, DataError


def export_model(net: Any, out: str | Path, *, merge: bool) -> Path:
    """Write a network of `vlms` into a new directory; its path.

    merge: one model that transformers alone loads, in which adapters are added to the weights, else the
        adapter as PEFT loads it, for the base that its `adapter_config.json` names. Processor and tokenizer
        stand beside either. The network is used up by a merge.
    Raises ConfigError where there is no adapter to write, or a part that no file of theirs can hold,
    DataError where the directory holds something already or can't be written.
    """
    place = Path(out).expanduser()
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise DataError(f"{place} exists already and is not overwritten: name a new or an empty directory")
    described: Mapping[str, Any] = net.peft_directory()
    if not merge and not described:
        raise ConfigError(
            "this run has no adapter (model.net.language is not lora), and its weights are a whole model: "
            "type merge=true"
        )
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent, prefix=f".{place.name}.") as scratch:
            written = Path(scratch) / "model"
            written.mkdir()
            if merge:
                whole: Any = net.merged()
                whole.save_pretrained(written)
            else:
                adapters.write_directory(written, described, net.state_dict())
            net.save_beside(written)
            if place.is_dir():
                place.rmdir()
            written.rename(place)
    except OSError as error:
        raise DataError(f"{place} cannot be written: {error}") from error
    return place
