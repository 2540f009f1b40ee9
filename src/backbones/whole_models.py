"""Whole models of transformers, with a tokenizer: from a directory, the hub's cache, or fetched from the hub.

Files are taken from the directory or the hub's cache, and fetched where they are in neither; no code of a
repository is ever run.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors import SafetensorError

from ..errors import CheckpointError, DataError
from . import repository
from .repository import Kind, is_directory, on_the_hub, read_json
from .weights import building_on_meta, read_state_dict

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

Dtype = Literal["float32", "bfloat16"]

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_INDEXES = tuple(f"{name}.index.json" for name in _WEIGHTS)
VOCABULARIES = ("tokenizer.json", "vocab.json", "tokenizer.model")
_TOKENIZER = (
    *VOCABULARIES,
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
)


def create(
    kind: Any,
    config: PreTrainedConfig,
    name: str,
    what: Kind,
    *,
    pretrained: bool | str,
    dtype: Dtype = "float32",
    quantization_config: Any = None,
) -> PreTrainedModel:
    """A model of transformers' class `kind` in eval mode, strictly with the weights that are asked for.

    name: a hub id, or a directory with the hub's files.
    pretrained: False for random weights, True for those of `name`, or the path of other weights of this
        architecture: a file, or a directory with one.
    dtype: of the weights; `bfloat16` halves a frozen model. They are read in it, tensor by tensor, onto the
        device that torch makes tensors on, so that no second copy is ever in memory.
    quantization_config: see `quantization.quantization_config`; with it the weights are rounded as they are
        read.
    Under `torch.device("meta")` the architecture is built and no weight is read.
    Raises CheckpointError where files are absent or do not fit.
    """
    config.dtype = dtype
    source = _source(name, what, pretrained)
    if source is None or building_on_meta():
        model: PreTrainedModel = kind._from_config(config, dtype=getattr(torch, dtype)).eval()
        return model
    return _loaded(kind, config, source, what, dtype, quantization_config)


def tokenizer(name: str, what: Kind, folder: str = "") -> PreTrainedTokenizerBase:
    """transformers' tokenizer of a model; CheckpointError where its files are absent.

    folder: below the model's own, for a second tokenizer.
    """
    from transformers import AutoTokenizer

    inside = f"{folder}/" if folder else ""
    files = [file for one in _TOKENIZER if (file := repository.find(name, inside + one, what))]
    if not any(file.name in VOCABULARIES for file in files):
        repository.fetch(name, "config.json", what)  # where nothing else says what kind of tokenizer it is
        files = [file for one in _TOKENIZER if (file := repository.fetch(name, inside + one, what))]
    if not any(file.name in VOCABULARIES for file in files):
        raise CheckpointError(
            f"{what.key}={name} has no tokenizer{f' in {folder}' if folder else ''}: none of "
            f"{', '.join(VOCABULARIES)}; copy the files of the {what.title} it was made from"
        )
    place = files[0].parent
    load: Any = AutoTokenizer.from_pretrained  # it has no annotations
    try:
        found: PreTrainedTokenizerBase = load(place, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError) as error:
        raise CheckpointError(f"the tokenizer in {place} cannot be read: {one_line(error)}") from error
    return found


def has_tokenizer(name: str, what: Kind, folder: str = "") -> bool:
    """Whether a tokenizer is on this machine, so that none need be fetched."""
    inside = f"{folder}/" if folder else ""
    return any(repository.find(name, inside + one, what) for one in VOCABULARIES)


def check_weights(name: str, what: Kind, pretrained: bool | str) -> None:
    """Raise CheckpointError where a tokenizer, or weights that are wanted, are neither here nor on the hub.

    Nothing is read or fetched. Paths are looked at when the architecture is built.
    """
    for names in (VOCABULARIES, *([(*_WEIGHTS, *_INDEXES)] if pretrained is True else [])):
        if any(repository.find(name, one, what) for one in names):
            continue
        there = set() if is_directory(name) else on_the_hub(name, what) & {*names}
        if not there:
            raise CheckpointError(f"{what.key}={name} holds none of {', '.join(names)}")


def copy_files(
    name: str, what: Kind, directory: Path, more: Sequence[str] = (), folders: Sequence[str] = ("",)
) -> list[Path]:
    """Tokenizer, chat template and processor of a model, as they are, into `directory`; -> the copies.

    They are those of its directory, or of the hub's cache: nothing is fetched.
    more: names of further files. folders: below the model's own, of tokenizers and what else is there.
    Raises DataError where they cannot be written.
    """
    copies = []
    for folder in folders:
        for file in dict.fromkeys((*_TOKENIZER, *repository.PROCESSOR_FILES, *more)):
            inside = f"{folder}/{file}" if folder else file
            if found := repository.find(name, inside, what):
                place = directory / inside
                try:
                    place.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(found, place)
                except OSError as error:
                    raise DataError(f"{place} cannot be written: {error}") from error
                copies.append(place)
    return copies


def one_line(error: Exception) -> str:
    """What a library's error says, in one line of at most 300 characters."""
    return " ".join(str(error).split())[:300] or type(error).__name__


# --- weights ---


def _source(name: str, what: Kind, pretrained: bool | str) -> Path | None:
    """The file, or the directory, that holds the weights; None for random ones."""
    if pretrained is False:
        return None
    if pretrained is not True:
        place = Path(pretrained).expanduser()
        if not place.exists():
            raise CheckpointError(
                f"{what.pretrained}={pretrained} does not exist: give a weight file, a "
                f"directory with {' or '.join(_WEIGHTS)}, true (the weights of {what.key}) or "
                f"false (random ones)"
            )
        if place.is_file():
            return place
        name = str(place)
    elif building_on_meta() and not is_directory(name):
        return Path(name)  # those of the hub are looked for when they are read
    for look in (repository.find, repository.fetch):
        for one in _WEIGHTS:
            if file := look(name, one, what):
                return file.parent
            if index := look(name, f"{one}.index.json", what):
                _get_parts(name, what, index)
                return index.parent
    raise CheckpointError(
        f"{name} holds no weights: none of {', '.join((*_WEIGHTS, *_INDEXES))}. For random ones type "
        f"{what.pretrained}=false"
    )


def _get_parts(name: str, what: Kind, index: Path) -> None:
    listed: Mapping[str, str] = read_json(index).get("weight_map", {})
    for part in sorted(set(listed.values())):
        if repository.find(name, part, what) is None and repository.fetch(name, part, what) is None:
            raise CheckpointError(f"{index} lists {part}, which is not there: the copy is not complete")


def _loaded(
    kind: Any, config: PreTrainedConfig, source: Path, what: Kind, dtype: Dtype, quantization_config: Any
) -> PreTrainedModel:
    """By transformers, which knows all layouts (tied weights left out, older names), but strictly.

    It takes the device from torch's context, for which it needs accelerate, as peft does.
    """
    given: dict[str, Any] = {"state_dict": read_state_dict(source)} if source.is_file() else {}
    if quantization_config is not None:
        given["quantization_config"] = quantization_config
    try:
        with _quiet():
            model, report = kind.from_pretrained(
                None if source.is_file() else source,
                config=config,
                dtype=getattr(torch, dtype),
                local_files_only=True,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,  # they are reported, and refused below
                output_loading_info=True,
                **given,
            )
    except (SafetensorError, OSError, RuntimeError, ValueError, KeyError, EOFError, UnpicklingError) as error:
        raise CheckpointError(f"the weights in {source} cannot be read: {one_line(error)}") from error
    shapes = [
        f"{name} ({'x'.join(map(str, theirs))} in the file, {'x'.join(map(str, ours))} in the model)"
        for name, theirs, ours in sorted(report["mismatched_keys"])
    ]
    lines = [
        f"  {len(names)} {said}: {', '.join(names[:3])}{', …' if len(names) > 3 else ''}"
        for said, names in (
            ("missing in the file", sorted(report["missing_keys"])),
            ("unknown to the model", sorted(report["unexpected_keys"])),
            ("of another shape", shapes),
        )
        if names
    ]
    if lines:
        head = f"{source} does not fit {kind.__name__}:"
        tail = f"Give the weights that belong to the config.json of {what.key}."
        raise CheckpointError("\n".join([head, *lines, tail]))
    found: PreTrainedModel = model.eval()
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' bar, and its table of what does not fit."""
    from transformers.utils import logging

    settings: Any = logging  # it has no annotations
    level, shown = settings.get_verbosity(), settings.is_progress_bar_enabled()
    settings.set_verbosity_error()
    settings.disable_progress_bar()
    try:
        yield
    finally:
        settings.set_verbosity(level)
        if shown:
            settings.enable_progress_bar()
