"""Whether the keys of a mapping fit what reads them: names, closed choices, plain types."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from ..errors import did_you_mean
from .signatures import Accepts, Parameter, Signature
from .targets import INSTANTIATE_KEYS

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "None": "null",
    "list": "a list",
    "dict": "a mapping",
}
_EXAMPLES = {"int": "N", "float": "0.1", "str": "TEXT", "bool": "true", "list": "[A,B]", "dict": "NAME"}


def unknown_keys(
    key: str, node: Mapping[str, Any], signatures: Collection[Signature], provided: Collection[str] = ()
) -> list[str]:
    """One line for every key of `node` that none of the signatures takes, with the nearest that one does."""
    if not signatures or any(signature.accepts_kwargs for signature in signatures):
        return []
    known = [name for signature in signatures for name in signature.names if name not in provided]
    problems = []
    for name in node:
        if name in known or name in INSTANTIATE_KEYS or name in provided:
            continue
        near = did_you_mean(str(name), known)
        if near:
            near = near.replace("did you mean ", f"did you mean {_join(key, '')}")
        else:
            target = next(iter(signatures)).target
            owner = key if target.startswith("tapetum.config.schema.") else target
            near = f": {owner or 'the config'} takes {', '.join(known) or 'nothing'}"
        problems.append(f"unknown key {_join(key, name)}{near}")
    return problems


def missing_keys(
    key: str, node: Mapping[str, Any], signature: Signature, provided: Collection[str] = ()
) -> list[str]:
    """One line for every argument without a default that `node` lacks."""
    positional = len(node.get("_args_") or ())
    required = [
        one
        for number, one in enumerate(signature.parameters)
        if not one.default and (one.keyword_only or number >= positional)
    ]
    return [
        f"{_join(key, one.name)} is missing: type {_join(key, one.name)}={_example(one)}"
        for one in required
        if one.name not in node and one.name not in provided
    ]


def wrong_values(key: str, node: Mapping[str, Any], signature: Signature) -> list[str]:
    """One line for every plain value of `node` that its parameter's annotation does not let through."""
    problems = []
    for parameter in signature.parameters:
        if parameter.name in node and parameter.accepts is not None:
            problem = wrong_value(_join(key, parameter.name), node[parameter.name], parameter.accepts)
            if problem:
                problems.append(problem)
    return problems


def wrong_value(key: str, value: Any, accepts: Accepts) -> str | None:
    """Why `value` does not pass, or None; what will be built first (a node with `_target_`) always passes."""
    if _has_target(value) or not (accepts.types or accepts.choices):
        return None
    kind = _kind(value)
    if kind in accepts.types or (kind == "int" and "float" in accepts.types):
        return None
    if any(value == choice and type(value) is type(choice) for choice in accepts.choices):
        return None
    if accepts.choices and (kind == "str" or not accepts.types - {"None"}):
        shown = [_shown(choice) for choice in accepts.choices]
        return unknown_value(key, value, [*shown, *(_WORDS[one] for one in sorted(accepts.types))])
    words = " or ".join(_WORDS[one] for one in _WORDS if one in accepts.types)
    if kind == "str" and accepts.types & {"int", "float"} and _NUMBER.fullmatch(value):
        plain = float(value)
        written = int(plain) if plain.is_integer() and "float" not in accepts.types else plain
        return f"{key}={value!r} is text, it must be {words}: type {key}={written!r} without quotes"
    example = next((_EXAMPLES[one] for one in _EXAMPLES if one in accepts.types), "null")
    return f"{key}={_shown(value)} is {_WORDS[kind]}, it must be {words}: type {key}={example}"


def unknown_value(key: str, value: Any, known: Collection[str]) -> str:
    """`unknown value data=gen-image: did you mean genimage? data: cifake, folder, genimage`."""
    near = did_you_mean(str(value), known) or "."
    return f"unknown value {key}={_shown(value)}{near} {key}: {', '.join(known)}"


def _join(key: str, name: Any) -> str:
    return f"{key}.{name}" if key else str(name)


def _example(parameter: Parameter) -> str:
    types = parameter.accepts.types if parameter.accepts else frozenset()
    if parameter.accepts and parameter.accepts.choices:
        return str(parameter.accepts.choices[0])
    return next((_EXAMPLES[one] for one in _EXAMPLES if one in types), "VALUE")


def _kind(value: Any) -> str:
    for kind, name in ((bool, "bool"), (int, "int"), (float, "float"), (str, "str")):
        if isinstance(value, kind):
            return name
    if value is None:
        return "None"
    return "dict" if isinstance(value, Mapping) else "list"


def _has_target(value: Any) -> bool:
    if isinstance(value, Mapping):
        return "_target_" in value
    return isinstance(value, list) and any(_has_target(item) for item in value)


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "null" if value is None else str(value)
