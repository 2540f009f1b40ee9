"""Keys of a command line: whether anything reads them, and the words in which Hydra must get them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, OverrideType
from omegaconf import OmegaConf

from ..errors import ConfigError
from . import joined
from .compose import compose_raw
from .groups import HIDDEN, groups
from .schema import BESIDES, MAPPINGS
from .signatures import Signature, signature
from .synonyms import synonym

AND = "\0"
"""Between two words that one override becomes."""


def check_keys(
    keys: Sequence[Override], combinations: Sequence[Sequence[str]], rewritten: dict[str, str]
) -> list[str]:
    """Problems of the keys under every combination of the groups; `rewritten` learns what Hydra must get.

    Of several data sets each is looked at alone.
    """
    problems: list[str] = []
    unknown: dict[str, list[str]] = {}
    views = [view for combination in combinations for view in _views(combination)]
    for combination, name, names in views:
        try:
            config = compose_raw(combination)
        except ConfigError as error:
            problems += (joined.named(problem, name) for problem in error.problems)
            continue
        container = OmegaConf.to_container(config, resolve=False)
        assert isinstance(container, dict), "Hydra composes mappings only"
        listed = {str(key): value for key, value in container.items() if key != "hydra"}
        mine = [(one, _of_set(one, name, names)) for one in keys]
        tree = _with_targets(listed, [here for _, here in mine if here is not None])
        for one, here in mine:
            wrong = joined.own_key_problem(_text(one), names)
            if wrong or here is None:
                problems += [wrong] if wrong else []
                continue
            words = _key_words(here, listed, tree)
            if words is None:
                where = " ".join(word for word in combination if word not in rewritten.values())
                said = _unknown_key(here, tree)
                unknown.setdefault(said if here is one else joined.named(said, name), []).append(where)
                continue
            if here is not one and words:
                words = AND.join(joined.for_set(_always(word), name) for word in words.split(AND))
            if rewritten.get(_text(one)) in (None, _text(one), ""):
                rewritten[_text(one)] = words
    for problem, places in unknown.items():
        problems.append(problem if len(places) == len(views) else f"{problem} (with {places[0]})")
    return problems


def _views(combination: Sequence[str]) -> list[tuple[list[str], str, list[str]]]:
    """(groups with one data set, its name, all names); name '' and no names where there is one anyway."""
    names = joined.chosen(combination)
    if not names:
        return [(list(combination), "", [])]
    return [
        ([word for one in combination if (word := joined.of_set(one, name, names))], name, names)
        for name in names
    ]


def _of_set(one: Override, name: str, names: Sequence[str]) -> Override | None:
    """An override as one data set sees it: itself, one without the set's name, or None."""
    text = joined.of_set(_text(one), name, names) if names else _text(one)
    if text is None or text == _text(one):
        return None if text is None else one
    return OverridesParser.create().parse_override(text)


def _always(word: str) -> str:
    """A word that Hydra takes whether or not the key exists."""
    return word if word.startswith("~") else "++" + word.lstrip("+")


def _text(one: Override) -> str:
    """The override as it was typed."""
    return one.input_line or ""


def _key_words(one: Override, listed: Mapping[str, Any], tree: Mapping[str, Any]) -> str | None:
    """The override as Hydra takes it, None where nothing reads its key.

    listed: what the YAML says; tree: the same with every `_target_` of the command line.
    """
    key = one.key_or_group
    if one.package is not None:
        return None
    if _exists(listed, key):
        if (
            isinstance(_at(listed, key), Mapping)
            and not one.is_sweep_override()
            and isinstance(one.value(), list)
        ):
            return f"~{key}{AND}{_forced(one)}"  # Hydra merges no list into a mapping: out with it first
        return _text(one) if one.type in (OverrideType.CHANGE, OverrideType.DEL) else _forced(one)
    if not _exists(tree, key) and not _accepted(tree, key):
        return None
    return "" if one.is_delete() else _forced(one)


def _forced(one: Override) -> str:
    return "++" + _text(one).lstrip("+")


def _exists(tree: Any, key: str) -> bool:
    parent, _, name = key.rpartition(".")
    node = _at(tree, parent)
    if isinstance(node, list):
        return name.isdigit() and int(name) < len(node)
    return isinstance(node, Mapping) and name in node


def _at(tree: Any, key: str) -> Any:
    node = tree
    for name in key.split(".") if key else ():
        if isinstance(node, list) and name.isdigit() and int(name) < len(node):
            node = node[int(name)]
        else:
            node = node.get(name) if isinstance(node, Mapping) else None
    return node


def _accepted(tree: Mapping[str, Any], key: str) -> bool:
    """Whether the key, though no YAML lists it, is read by the target or mapping that it stands below."""
    parent, _, name = key.rpartition(".")
    node = _at(tree, parent)
    if parent in MAPPINGS and parent:
        return name in _names_of(MAPPINGS[parent])
    if isinstance(node, Mapping) and isinstance(node.get("_target_"), str):
        found = signature(node["_target_"])
        if name in ("_target_", "_args_", "_convert_", "_recursive_", "_partial_"):
            return True
        return (
            found is None or found.accepts_kwargs or name in {*found.names, *_names_of(BESIDES.get(parent))}
        )
    if not parent:
        return False
    above, _, last = parent.rpartition(".")
    holder = _at(tree, above)
    # A mapping that is itself an argument has keys that only its reader knows.
    return (
        isinstance(holder, Mapping) and "_target_" in holder and last in holder and isinstance(node, Mapping)
    )


def _names_of(target: str | None) -> tuple[str, ...]:
    found: Signature | None = signature(target) if target else None
    return found.names if found else ()


def _with_targets(listed: Mapping[str, Any], keys: Sequence[Override]) -> dict[str, Any]:
    """A copy of the tree in which every `…._target_=` of the command line has its place."""
    tree = copy.deepcopy(dict(listed))
    for one in keys:
        parent, _, last = one.key_or_group.rpartition(".")
        if last != "_target_" or one.is_delete() or parent.split(".")[0] not in tree:
            continue
        node: Any = tree
        for name in parent.split("."):
            if isinstance(node, list):
                node = node[int(name)] if name.isdigit() and int(name) < len(node) else {}
            else:
                if not isinstance(node.get(name), (dict, list)):
                    node[name] = {}
                node = node[name]
        if isinstance(node, dict):
            value = one.value()
            node[last] = plain(value.list[0] if isinstance(value, ChoiceSweep) else value)
    return tree


def _unknown_key(one: Override, tree: Mapping[str, Any]) -> str:
    key = one.key_or_group
    value = "" if one.is_delete() else _text(one).split("=", 1)[1]
    if one.package is not None:
        return f"{_text(one)}: only groups have a package after @: type {key}={value or 'VALUE'}"
    instead = synonym(key, value)
    if instead and not instead.startswith(f"{key}="):
        return f"unknown key {key}: type {instead}"
    near = _nearest(key, tree)
    if near:
        return f"unknown key {key}: did you mean {near}?"
    first, _, rest = key.partition(".")
    close = get_close_matches(first, sorted(_top(tree)), n=1, cutoff=0.6)
    if first not in tree and close:
        return f"unknown key {key}: did you mean {close[0]}{'.' + rest if rest else ''}?"
    parent = key.rpartition(".")[0]
    while parent and not isinstance(_at(tree, parent), Mapping):
        parent = parent.rpartition(".")[0]
    known = sorted(_known_below(tree, parent)) if parent else sorted(_top(tree))
    return f"unknown key {key}: {parent or 'the config'} has {', '.join(known) or 'no keys'}"


def _nearest(key: str, tree: Mapping[str, Any]) -> str | None:
    """The valid dotted name that is nearest: a sibling first, then a name anywhere."""
    parent, _, name = key.rpartition(".")
    siblings = _known_below(tree, parent) if parent else _top(tree)
    close = get_close_matches(name, sorted(siblings), n=1, cutoff=0.6)
    if close:
        return f"{parent}.{close[0]}" if parent else close[0]
    everything = sorted(_dotted(tree))
    same_name = [one for one in everything if one.rsplit(".", 1)[-1] == name]
    found = get_close_matches(key, same_name or everything, n=1, cutoff=0.4 if same_name else 0.7)
    return found[0] if found else None


def _known_below(tree: Mapping[str, Any], parent: str) -> set[str]:
    node = _at(tree, parent)
    known = (
        {str(name) for name in node if not str(name).startswith("_")} if isinstance(node, Mapping) else set()
    )
    known.update(_names_of(MAPPINGS.get(parent)))
    known.update(_names_of(BESIDES.get(parent)))
    if isinstance(node, Mapping) and isinstance(node.get("_target_"), str):
        known.update(_names_of(node["_target_"]))
    return known


def _top(tree: Mapping[str, Any]) -> set[str]:
    return {*tree, *groups()} - HIDDEN


def _dotted(node: Any, key: str = "") -> Iterator[str]:
    if isinstance(node, Mapping):
        for name, value in node.items():
            inner = f"{key}.{name}" if key else str(name)
            yield inner
            yield from _dotted(value, inner)


def plain(value: Any) -> Any:
    """A value without the quotes that the parser keeps."""
    text = getattr(value, "text", None)
    return text if isinstance(text, str) else value
