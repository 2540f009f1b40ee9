"""The files of a model of Hugging Face: those of a directory, of the hub's cache, or fetched from the hub.

No code of a repository is ever run: only its JSON, its tokenizer's files and its tensors are read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import CheckpointError, ConfigError

PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")
"""Where a repository says how images are prepared, newest layout first."""

TINY = "tiny:"
"""Before the kind of a model that `tapetum tiny` writes: `tiny:clip` is one that needs no directory."""

_TIMEOUT = 20.0
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")


class Kind(NamedTuple):
    """A kind of model, as errors name it.

    title: what it is called. example: the id of one. tiny: the word behind `tapetum tiny` that makes one.
    key: of the config, where its name stands. pretrained: of the config, where its weights are chosen.
    """

    title: str
    example: str
    tiny: str
    key: str = "model.net.backbone"
    pretrained: str = "model.net.pretrained"


def find(backbone: str, name: str, kind: Kind) -> Path | None:
    """A file of the directory or of the hub's cache, None where there is none.

    Raises ConfigError for what is neither a directory nor spelled like the id of a model.
    """
    from huggingface_hub import try_to_load_from_cache

    if is_directory(backbone):
        file = directory_of(backbone) / name
        return file if file.is_file() else None
    if not _HUB_ID.fullmatch(backbone):
        raise ConfigError(
            f"{kind.key}={backbone} is neither a directory that exists nor the id of a model on the "
            f"hub (org/name, such as {kind.example})"
        )
    found = try_to_load_from_cache(backbone, name)
    return Path(found) if isinstance(found, str) else None


def fetch(backbone: str, name: str, kind: Kind) -> Path | None:
    """A file of the hub, None where the repository has none of that name.

    Raises CheckpointError with the commands to type where the hub can't be reached.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HTTPError  # type: ignore[attr-defined]

    if is_directory(backbone) or name not in on_the_hub(backbone, kind):
        return None
    try:
        return Path(hf_hub_download(backbone, name))
    except (HfHubHTTPError, HTTPError, OSError) as error:
        raise _absent(backbone, kind, error) from error


def is_directory(backbone: str) -> bool:
    """Whether a backbone is a directory, or a tiny model, rather than the id of a model."""
    return backbone.startswith(TINY) or Path(backbone).expanduser().is_dir()


def directory_of(backbone: str) -> Path:
    """The directory that a backbone names; that of `tiny:KIND` is written when it is first asked for."""
    if not backbone.startswith(TINY):
        return Path(backbone).expanduser()
    from .tiny import ready

    return ready(backbone.removeprefix(TINY))


@lru_cache
def on_the_hub(backbone: str, kind: Kind) -> frozenset[str]:
    """The files of a repository; asked first, since a download waits half a minute for a network."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HTTPError  # type: ignore[attr-defined]

    try:
        found = HfApi().model_info(backbone, timeout=_TIMEOUT).siblings or ()
    except (HfHubHTTPError, HTTPError, OSError) as error:
        raise _absent(backbone, kind, error) from error
    return frozenset(entry.rfilename for entry in found)


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file; CheckpointError where it can't be read or holds something else."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file} holds no object: it is damaged")
    return content


def parsed(config_class: Any, content: Mapping[str, Any], backbone: str, kind: Kind) -> Any:
    """A config of transformers from what a config.json holds; ConfigError where it does not fit."""
    from huggingface_hub.errors import StrictDataclassError

    try:
        return config_class.from_dict(dict(content))
    except (AttributeError, TypeError, ValueError, StrictDataclassError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"the config.json of {kind.key}={backbone} is damaged: {reason}") from error


def _absent(backbone: str, kind: Kind, error: Exception) -> CheckpointError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    place = f"tiny-{kind.tiny.replace('_', '-')}"
    return CheckpointError(
        f"{kind.key}={backbone} is not on this machine and could not be fetched ({reason}). Type\n"
        f"  hf download {backbone} --exclude '*.h5' '*.msgpack'\n"
        f"where there is a network, or try with a tiny random {kind.title}:\n"
        f"  tapetum tiny {kind.tiny} {place}      (then add {kind.key}={place})"
    )
