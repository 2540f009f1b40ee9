"""A command line's overrides, checked before Hydra sees them and handed on in the words it needs."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from itertools import product
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, Override, OverrideType, RangeSweep
from hydra.errors import HydraException
from omegaconf import OmegaConf

from ..errors import ConfigError
from .arguments import unknown_value
from .compose import compose_raw
from .groups import HIDDEN, groups, option_names
from .schema import BESIDES, MAPPINGS
from .signatures import Signature, signature
from .synonyms import synonym

# Groups of which several options go together, as in callbacks=[ema,lr_finder].
_SEVERAL = frozenset({"callbacks", "logger", "debug"})
_AND = "\0"  # between two words that one override becomes
_MOST_CHOICES = 16  # combinations of swept groups whose keys are looked at; each job is checked anyway


def prepare(overrides: Sequence[str], *, multirun: bool) -> list[str]:
    """The overrides that Hydra gets, one for each given.

    Keys that the YAML does not list but whose target takes them lose the need for Hydra's `+`.
    Raises ConfigError with every problem: syntax, unknown groups, values and keys, a sweep without `-m`.
    """
    problems: list[str] = []
    parsed = [
        one for text in _without_flags(overrides, problems) if (one := _parse(text, problems)) is not None
    ]
    if not multirun:
        problems += [_forgotten_multirun(one) for one in parsed if one.is_sweep_override()]
    chosen = [one for one in parsed if _is_group(one)]
    keys = [one for one in parsed if not _is_group(one) and not _is_hydras(one)]
    wrong = {_text(one): found for one in chosen if (found := list(_group_problems(one)))}
    problems += [problem for found in wrong.values() for problem in found]
    rewritten = {_text(one): _group_words(one) for one in chosen}
    if keys:
        good = [one for one in chosen if _text(one) not in wrong]
        problems += _check_keys(keys, good, rewritten, multirun)
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    words = [rewritten.get(_text(one), _text(one)) for one in parsed]
    return [part for word in words for part in word.split(_AND) if part]


def _without_flags(words: Sequence[str], problems: list[str]) -> Iterator[str]:
    """Every word that is no `--flag=value` or `--flag value`; these go among the problems."""
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            yield word
            continue
        key, equals, value = word.partition("=")
        if not equals and rest and "=" not in rest[0] and not rest[0].startswith("-"):
            value = rest.pop(0)
            word = f"{word} {value}"
        instead = synonym(key, value) or f"{key.lstrip('-').replace('-', '_')}={value or 'VALUE'}"
        problems.append(f"{word} is a flag, and there are none: type {instead}")


def _text(one: Override) -> str:
    """The override as it was typed."""
    return one.input_line or ""


def _parse(text: str, problems: list[str]) -> Override | None:
    key, equals, value = text.partition("=")
    if text.startswith("-"):
        instead = synonym(key, value)
        hint = (
            f"type {instead}" if instead else f"type {key.lstrip('-').replace('-', '_')}={value or 'VALUE'}"
        )
        problems.append(f"{text} is a flag, overrides have none: {hint}")
        return None
    if not equals and not text.startswith("~"):
        problems.append(f"{text} is not KEY=VALUE: {_near_word(text)}")
        return None
    try:
        return OverridesParser.create().parse_override(text)
    except HydraException:
        plain = key.lstrip("+~")
        if not re.fullmatch(r"[\w.@/]+", plain):
            problems.append(f"{text} is not KEY=VALUE: {plain!r} can't be a key")
        elif re.search(r"[\[\](){}]", value) and not _balanced(value):
            problems.append(
                f"{text} has an unclosed or unopened bracket: close it, or type {plain}=\"'{value}'\""
            )
        else:
            problems.append(f"{text} can't be read: put quotes around its value: \"{key}='{value}'\"")
        return None


def _near_word(word: str) -> str:
    for group in groups():
        if word in option_names(group):
            return f"type {group}={word}"
    return f"type {word}=VALUE" if re.fullmatch(r"[\w.]+", word) else "type KEY=VALUE"


def _balanced(value: str) -> bool:
    closing = {")": "(", "]": "[", "}": "{"}
    open_ones: list[str] = []
    for character in value:
        if character in closing.values():
            open_ones.append(character)
        elif character in closing and (not open_ones or open_ones.pop() != closing[character]):
            return False
    return not open_ones


def _forgotten_multirun(one: Override) -> str:
    text = _text(one)
    value = one.value()
    if isinstance(value, ChoiceSweep) and value.simple_form:
        inside = text.split("=", 1)[1]
        as_list = "" if _is_group(one) else f", or {one.key_or_group}=[{inside}] for one list"
        return f"{text} has several values: type -m {text} to run each{as_list}"
    return f"{text} is a sweep: type -m {text} to run each value"


# -- groups -----------------------------------------------------------------------------------------------


def _is_hydras(one: Override) -> bool:
    return one.key_or_group.startswith(("hydra.", "hydra/")) or one.key_or_group == "hydra"


def _is_group(one: Override) -> bool:
    return one.key_or_group in groups() or (one.key_or_group in HIDDEN)


def _group_problems(one: Override) -> Iterator[str]:
    group, options = one.key_or_group, option_names(one.key_or_group)
    if group in HIDDEN:
        models = ", ".join(option_names("model"))
        yield f"{_text(one)}: the model brings its {group} along: type model=NAME ({models})"
        return
    if one.package is not None:
        yield f"{_text(one)} puts {group} under another key, which nothing reads: type {group}=NAME"
        return
    if one.is_delete():
        if "none" not in options and group not in _nullable():
            yield f"{_text(one)} leaves nothing to run with: type {group}=NAME ({', '.join(options)})"
        return
    for value in _values(one, options):
        if isinstance(value, list):
            if group not in _SEVERAL:
                yield (
                    f"{_text(one)} would merge several options of {group} into one: "
                    f"type one {group}=NAME, or -m {group}={','.join(map(str, value))} to run each"
                )
            else:
                yield from (
                    unknown_value(group, str(item), options) for item in value if str(item) not in options
                )
        elif value is None:
            if "none" not in options and group not in _nullable():
                yield f"{group}=null leaves nothing to run with: type {group}=NAME ({', '.join(options)})"
        elif str(value) not in options:
            yield unknown_value(group, str(value), options)


def _group_words(one: Override) -> str:
    """The override as Hydra takes it, empty where it says what is so anyway."""
    group = one.key_or_group
    nothing = one.is_delete() or (not one.is_sweep_override() and one.value() is None)
    if nothing:
        # Hydra has no `group=null`; without its `none` the group is taken out of the defaults.
        return f"{group}=none" if "none" in option_names(group) else f"~{group}"
    return _text(one).lstrip("+")


@cache
def _nullable() -> frozenset[str]:
    """Groups that train.yaml leaves empty."""
    chosen = compose_raw([]).hydra.runtime.choices
    return frozenset(group for group in groups() if chosen.get(group) is None) | {"local"}


def _values(one: Override, names: Sequence[str]) -> Iterable[Any]:
    """Every value that an override can take; nothing for an interval."""
    if one.is_delete():
        return []
    value = one.value()
    if isinstance(value, Glob):
        return value.filter(list(names)) or [f"glob({', '.join(value.include)})"]
    if isinstance(value, ChoiceSweep):
        return [_plain(item) for item in value.list]
    if isinstance(value, RangeSweep):
        return list(value.range())
    return [] if one.is_sweep_override() else [_plain(value)]


def _plain(value: Any) -> Any:
    """A value without the quotes that the parser keeps."""
    text = getattr(value, "text", None)
    return text if isinstance(text, str) else value


# -- keys -------------------------------------------------------------------------------------------------


def _check_keys(
    keys: Sequence[Override], chosen: Sequence[Override], rewritten: dict[str, str], multirun: bool
) -> list[str]:
    """Problems of the keys under every combination of the groups; `rewritten` learns what Hydra must get."""
    problems: list[str] = []
    combinations = list(_combinations(chosen, multirun))
    unknown: dict[str, list[str]] = {}
    for combination in combinations:
        try:
            config = compose_raw(combination)
        except ConfigError as error:
            problems += error.problems
            continue
        container = OmegaConf.to_container(config, resolve=False)
        assert isinstance(container, dict), "Hydra composes mappings only"
        listed = {str(name): value for name, value in container.items() if name != "hydra"}
        tree = _with_targets(listed, keys)
        for one in keys:
            words = _key_words(one, listed, tree)
            if words is None:
                where = " ".join(word for word in combination if word not in rewritten.values())
                unknown.setdefault(_unknown_key(one, tree), []).append(where)
            elif rewritten.get(_text(one)) in (None, _text(one), ""):
                rewritten[_text(one)] = words
    for problem, places in unknown.items():
        problems.append(problem if len(places) == len(combinations) else f"{problem} (with {places[0]})")
    return problems


def _combinations(chosen: Sequence[Override], multirun: bool) -> Iterator[list[str]]:
    fixed = [_group_words(one) for one in chosen if not one.is_sweep_override()]
    swept = [one for one in chosen if one.is_sweep_override()] if multirun else []
    choices = [
        [f"{one.key_or_group}={value}" for value in _values(one, option_names(one.key_or_group))]
        for one in swept
    ]
    for number, combination in enumerate(product(*choices)):
        if number == _MOST_CHOICES:
            return
        yield [word for word in (*fixed, *combination) if word]


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
            return f"~{key}{_AND}{_forced(one)}"  # Hydra merges no list into a mapping: out with it first
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
            node[last] = next(iter(_values(one, ())), None)
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
