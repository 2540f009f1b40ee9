"""A command line's overrides, checked before Hydra sees them and handed on in the words it needs."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import product
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, Override, RangeSweep
from hydra.errors import HydraException

from ..errors import ConfigError
from .arguments import unknown_value
from .compose import compose_raw
from .groups import HIDDEN, groups, option_names
from .keys import AND, check_keys, plain
from .synonyms import synonym

# Groups of which several options go together, as in callbacks=[ema,lr_finder].
_SEVERAL = frozenset({"callbacks", "logger", "debug", "data"})
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
        problems += check_keys(keys, list(_combinations(good, multirun)), rewritten)
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    words = [rewritten.get(_text(one), _text(one)) for one in parsed]
    return [part for word in words for part in word.split(AND) if part]


def is_a_file(word: str) -> bool:
    """Whether a word of the command line is something on the disk, although it may look like an override."""
    return os.path.exists(word)  # noqa: PTH110 - a prompt may be too long for a name, at which Path fails


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
                continue
            items = [str(plain(item)) for item in value]
            yield from (unknown_value(group, item, options) for item in items if item not in options)
            if group == "data" and len(set(items)) < max(2, len(items)):
                instead = f"data={items[0]}" if len(set(items)) == 1 else "data=[NAME,NAME]"
                yield f"{_text(one)} must name two data sets at least, and each once: type {instead}"
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
        return [plain(item) for item in value.list]
    if isinstance(value, RangeSweep):
        return list(value.range())
    return [] if one.is_sweep_override() else [plain(value)]


def _combinations(chosen: Sequence[Override], multirun: bool) -> Iterator[list[str]]:
    fixed = [_group_words(one) for one in chosen if not one.is_sweep_override()]
    swept = [one for one in chosen if one.is_sweep_override()] if multirun else []
    choices = [
        [f"{one.key_or_group}={_typed(value)}" for value in _values(one, option_names(one.key_or_group))]
        for one in swept
    ]
    for number, combination in enumerate(product(*choices)):
        if number == _MOST_CHOICES:
            return
        yield [word for word in (*fixed, *combination) if word]


def _typed(value: Any) -> str:
    """A group's value as it is typed."""
    return f"[{','.join(map(_typed, value))}]" if isinstance(value, list) else str(plain(value))
