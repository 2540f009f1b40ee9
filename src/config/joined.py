"""Several data sets in one config, `data=[a,b]`: each is composed alone, since Hydra would merge their keys.

In the joined config `data` holds what is one for all of them (batch size, workers, …), and `data.index` is a
list with an entry a set: its name under `data`, and its own root, roots, limit, val_fraction and index.
`each` gives every set's config as if it stood alone. On the command line `data.cifake.root=DIR` is a key of
one set, `data.batch_size=8` of all.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import yaml
from omegaconf import OmegaConf

from ..errors import ConfigError

OWN = ("root", "roots", "limit", "val_fraction", "index")
"""Keys of `data` that each set has for itself."""

_PLACES = ("root", "roots", "index")  # of these one value for all sets makes no sense
_WORD = re.compile(r"(?P<mark>[+~]*)(?P<key>[^=]*)(?P<rest>.*)", re.DOTALL)


def is_joined(config: Mapping[str, Any]) -> bool:
    """Whether a config has several data sets."""
    data = config.get("data")
    return isinstance(data, Mapping) and isinstance(data.get("index"), list)


def each(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Data set → the config as it is with that set alone; of one that is not joined, itself under ''."""
    if not is_joined(config):
        return {"": dict(config)}
    found = {}
    for entry in config["data"]["index"]:
        own = {key: value for key, value in entry.items() if key != "data"}
        found[str(entry["data"])] = {**config, "data": {**config["data"], **own}}
    return found


def with_own(config: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """The config with keys of OWN replaced, in every set where there are several."""
    data = {**config["data"]}
    if is_joined(config):
        data["index"] = [{**entry, **changes} for entry in data["index"]]
    else:
        data |= changes
    return {**config, "data": data}


def replaced(config: Mapping[str, Any], words: Sequence[str]) -> dict[str, Any]:
    """A composed config with single keys replaced as a command line says: `data.root=…` keeps the rest.

    Raises ConfigError for a key that one of several sets must have for itself.
    """
    sets = each(config)
    names = [name for name in sets if name]
    problems = [problem for word in words if (problem := own_key_problem(word, names))]
    if problems:
        raise ConfigError(problems)
    found: dict[str, dict[str, Any]] = {}
    for name, one in sets.items():
        mine = [word for given in words if (word := of_set(given, name, names) if name else given)]
        changes = OmegaConf.from_dotlist([word.lstrip("+") for word in mine])
        merged: Any = OmegaConf.to_container(OmegaConf.merge(one, changes), resolve=True)
        found[name] = {str(key): value for key, value in merged.items()}
    return join(found) if names else found[""]


def copy_key(key: str, source: Mapping[str, Any], target: dict[str, Any]) -> None:
    """One dotted key of a config to another one, in place, and nothing that the two share besides."""
    *above, last = key.split(".")
    into = target
    for name in above:
        into[name] = dict(into[name])
        source, into = source[name], into[name]
    into[last] = source[last]


def places(config: Mapping[str, Any]) -> str:
    """Where the data lie, for messages: the root, or every set's."""
    if not is_joined(config):
        return str(config["data"]["root"])
    return ", ".join(f"{name}: {one['data']['root']}" for name, one in each(config).items())


def named(message: str, name: str) -> str:
    """A message about one set with its keys as they are typed for it among several."""
    return re.sub(rf"\bdata\.({'|'.join(OWN)})\b", rf"data.{name}.\1", message) if name else message


def join(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """One config of several that differ in their data alone.

    What the sets agree on holds for all; where they don't, the default of `data/_base.yaml` does, which the
    command line replaces. Raises ConfigError for what differs and has no default.
    """
    first = next(iter(configs.values()))
    problems = [
        f"{key} is not the same for {' and '.join(configs)}: set {key} so that it does not depend on data"
        for key in first
        if key not in ("data", "name") and any(other.get(key) != first[key] for other in configs.values())
    ]
    shared: dict[str, Any] = {}
    defaults = yaml.safe_load(
        files("tapetum.conf").joinpath("data", "_base.yaml").read_text(encoding="utf-8")
    )
    for key in dict.fromkeys(key for config in configs.values() for key in config["data"]):
        if key in OWN:
            continue
        given = {name: config["data"][key] for name, config in configs.items() if key in config["data"]}
        values = list(given.values())
        if len(given) == len(configs) and all(value == values[0] for value in values):
            shared[key] = values[0]
        elif key in defaults:
            shared[key] = defaults[key]
        else:
            told = ", ".join(f"{value} for {name}" for name, value in given.items())
            problems.append(f"data.{key} is {told}: type data.{key}=VALUE, it is one for all sets")
    if problems:
        raise ConfigError(problems)
    index = [
        {"data": name, **{key: config["data"].get(key) for key in OWN}} for name, config in configs.items()
    ]
    return {**first, "data": {**shared, **dict.fromkeys(OWN), "index": index}}


# -- the command line --------------------------------------------------------------------------------------


def chosen(words: Sequence[str]) -> list[str]:
    """The names in the last `data=[a,b]` of a command line; nothing where one set, or none, is chosen."""
    last = [word for word in words if re.match(r"\+*data=", word)][-1:]
    inside = re.fullmatch(r"\+*data=\[(.*)\]", last[0], re.DOTALL) if last else None
    return [name.strip().strip("'\"") for name in inside[1].split(",") if name.strip()] if inside else []


def of_set(word: str, name: str, names: Sequence[str]) -> str | None:
    """An override as it reads where `name` is the only set; None where it is another set's."""
    found = _WORD.fullmatch(word)
    assert found is not None, "the expression matches any text"
    mark, key, rest = found.group("mark", "key", "rest")
    if key == "data":
        return f"data={name}"
    if not key.startswith("data."):
        return word
    first, dot, below = key.removeprefix("data.").partition(".")
    if first not in names:
        return word
    return f"{mark}data.{below}{rest}" if first == name and dot else None


def for_set(word: str, name: str) -> str:
    """The other way round: `++data.root=x` of one set as it is handed on, `++data.cifake.root=x`."""
    return re.sub(r"^([+~]*)data\.", rf"\1data.{name}.", word)


def own_key_problem(word: str, names: Sequence[str]) -> str | None:
    """What is wrong with a key of `data` where there are several sets, None where nothing is."""
    found = _WORD.fullmatch(word)
    assert found is not None, "the expression matches any text"
    key = found["key"]
    if not names or not key.startswith("data."):
        return None
    first, _, below = key.removeprefix("data.").partition(".")
    if first in names:
        top = below.partition(".")[0]
        if top in OWN:
            return None
        return (
            f"{word}: {top or 'it'} is one for all sets: type data.{top or 'KEY'}{found['rest'] or '=VALUE'}"
        )
    if first in _PLACES:
        each_ = " ".join(f"{key.replace('data.', f'data.{name}.', 1)}=VALUE" for name in names)
        return f"{word} belongs to one of {', '.join(names)}: type {each_}"
    return None
