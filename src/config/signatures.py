"""What a dotted name takes, read from its source: nothing is imported, so torch stays where it is."""

from __future__ import annotations

import ast
import sys
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

from ..errors import did_you_mean
from .sources import (
    DEPTH,
    Alias,
    Import,
    Module,
    decorated,
    decorator_named,
    dotted_name,
    find_definition,
    follow_expression,
    longest_module,
    package_folders,
    read_module,
)

_PLAIN = {"int": "int", "float": "float", "str": "str", "bool": "bool", "None": "None"}
_PATHS = {"Path", "PathLike", "PurePath"}
_LISTS = {"list", "List", "Sequence", "Iterable", "Collection", "tuple", "Tuple", "set", "Set", "frozenset"}
_DICTS = {"dict", "Dict", "Mapping", "MutableMapping", "OrderedDict"}
_CLASSES_ONLY = {*sys.stdlib_module_names, "torch", "numpy", "pyarrow"}  # large, and no alias of plain values
_ROOTS = {"object", "ABC", "Protocol", "Generic", "Exception", "ValueError", "RuntimeError"}


@dataclass(frozen=True)
class Accepts:
    """Plain values that an annotation lets through.

    types: among int, float, str, bool, None, list, dict. choices: the values of a Literal.
    """

    types: frozenset[str] = frozenset()
    choices: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Parameter:
    """One argument by name; `accepts` is None where the annotation says nothing about plain values."""

    name: str
    default: bool
    keyword_only: bool = False
    annotation: str | None = None
    accepts: Accepts | None = None


@dataclass(frozen=True)
class Signature:
    """What a class or function can be called with."""

    target: str
    kind: Literal["class", "function"]
    parameters: tuple[Parameter, ...]
    accepts_kwargs: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Arguments that can be given by name, in their order."""
        return tuple(parameter.name for parameter in self.parameters)


@cache
def signature(target: str) -> Signature | None:
    """The signature of a class, function or classmethod; None where the source does not tell."""
    found = find_definition(target)
    if found is None:
        return None
    module, node = found
    if isinstance(node, ast.FunctionDef):
        drop = 1 if decorated(node, "classmethod") else 0
        return _of_function(target, "function", module, node, drop)
    return _of_class(target, module, node, DEPTH)


def absence(target: str) -> str | None:
    """Why `target` certainly does not exist, with the nearest name; None where it does or can't be known."""
    parts = target.split(".")
    if package_folders(parts[0]) is None:
        return f"no package {parts[0]} is installed"
    path, rest = longest_module(parts)
    module = read_module(path)
    if module is None:
        return None
    if not rest:
        known = ", ".join(sorted(module.public()))
        return f"{target} is a file: name a class or function in it" + (f": {known}" if known else "")
    name = rest[0]
    # Our own packages hide nothing but functions behind __getattr__.
    if name in module.names() or not (module.conclusive() or parts[0] == "tapetum"):
        return None
    what = "has no file or folder" if len(rest) > 1 else "has no"
    return f"{path} {what} {name}{did_you_mean(name, _public({*module.submodules()} | module.names()))}"


def constant(module: str, name: str) -> Any | None:
    """The literal value assigned to `name` in a module, None where there is none."""
    found = read_module(module)
    node = found.definitions.get(name) if found else None
    if isinstance(node, Alias) and node.value is not None:
        try:
            return ast.literal_eval(node.value)
        except ValueError:
            return None
    return None


def _of_function(
    target: str, kind: Literal["class", "function"], module: Module, node: ast.FunctionDef, drop: int
) -> Signature:
    arguments = node.args
    positional = [*arguments.posonlyargs, *arguments.args]
    first_default = len(positional) - len(arguments.defaults)
    parameters = [
        _parameter(module, argument, default=number >= first_default, keyword_only=False)
        for number, argument in enumerate(positional)
        if number >= max(drop, len(arguments.posonlyargs))
    ]
    parameters += [
        _parameter(module, argument, default=default is not None, keyword_only=True)
        for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    ]
    return Signature(target, kind, tuple(parameters), accepts_kwargs=arguments.kwarg is not None)


def _parameter(module: Module, argument: ast.arg, *, default: bool, keyword_only: bool) -> Parameter:
    annotation = argument.annotation
    return Parameter(
        argument.arg,
        default=default,
        keyword_only=keyword_only,
        annotation=ast.unparse(annotation) if annotation is not None else None,
        accepts=_accepts(annotation, module, DEPTH) if annotation is not None else None,
    )


def _of_class(target: str, module: Module, node: ast.ClassDef, depth: int) -> Signature | None:
    if depth == 0:
        return None
    methods = {item.name: item for item in node.body if isinstance(item, ast.FunctionDef)}
    constructor = methods.get("__init__") or methods.get("__new__")
    if constructor is not None:
        return _of_function(target, "class", module, constructor, drop=1)
    if decorated(node, "dataclass"):
        fields = _fields(module, node, depth)
        return None if fields is None else Signature(target, "class", tuple(fields.values()))
    for base in node.bases:
        name = (dotted_name(base.value if isinstance(base, ast.Subscript) else base) or "").rsplit(".", 1)[-1]
        if name in _ROOTS:
            continue
        found = follow_expression(module, base, depth - 1)
        if found is None or not isinstance(found[1], ast.ClassDef):
            return None
        inherited = _of_class(target, found[0], found[1], depth - 1)
        # A base without a constructor of its own leaves the question to the next one.
        if inherited is None or inherited.parameters or inherited.accepts_kwargs:
            return inherited
    return Signature(target, "class", ())


def _fields(module: Module, node: ast.ClassDef, depth: int) -> dict[str, Parameter] | None:
    """The constructor arguments of a dataclass, those of its dataclass bases first."""
    fields: dict[str, Parameter] = {}
    for base in node.bases:
        name = (dotted_name(base.value if isinstance(base, ast.Subscript) else base) or "").rsplit(".", 1)[-1]
        if name in _ROOTS:
            continue
        found = follow_expression(module, base, depth - 1)
        if found is None or not isinstance(found[1], ast.ClassDef):
            return None
        if decorated(found[1], "dataclass"):
            inherited = _fields(found[0], found[1], depth - 1)
            if inherited is None:
                return None
            fields |= inherited
    decorator = decorator_named(node, "dataclass")
    keyword_only = isinstance(decorator, ast.Call) and _keyword(decorator, "kw_only") is True
    for item in node.body:
        if not isinstance(item, ast.AnnAssign) or not isinstance(item.target, ast.Name):
            continue
        text = ast.unparse(item.annotation)
        if "ClassVar" in text:
            continue
        if text.rsplit(".", 1)[-1] == "KW_ONLY":
            keyword_only = True
            continue
        default = item.value is not None
        if isinstance(item.value, ast.Call) and (dotted_name(item.value.func) or "").endswith("field"):
            if _keyword(item.value, "init") is False:
                continue
            default = any(word.arg in ("default", "default_factory") for word in item.value.keywords)
        argument = ast.arg(item.target.id, item.annotation)
        fields[item.target.id] = _parameter(module, argument, default=default, keyword_only=keyword_only)
    return fields


def _keyword(call: ast.Call, name: str) -> Any:
    for word in call.keywords:
        if word.arg == name and isinstance(word.value, ast.Constant):
            return word.value.value
    return None


# -- annotations ------------------------------------------------------------------------------------------


def _accepts(node: ast.expr, module: Module, depth: int) -> Accepts | None:
    """Plain values that an annotation lets through; None where any part of it is something else."""
    if depth == 0:
        return None
    if isinstance(node, ast.Constant):
        if node.value is None:
            return Accepts(frozenset({"None"}))
        if isinstance(node.value, str):
            try:
                return _accepts(ast.parse(node.value, mode="eval").body, module, depth - 1)
            except SyntaxError:
                return None
        return None
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return _union([_accepts(node.left, module, depth - 1), _accepts(node.right, module, depth - 1)])
    if isinstance(node, ast.Subscript):
        return _accepts_subscript(node, module, depth)
    dotted = dotted_name(node)
    if dotted is None:
        return None
    name = dotted.rsplit(".", 1)[-1]
    if name in _PLAIN:
        return Accepts(frozenset({_PLAIN[name]}))
    if name in _PATHS:
        return Accepts(frozenset({"str"}))
    if name in _LISTS:
        return Accepts(frozenset({"list"}))
    if name in _DICTS:
        return Accepts(frozenset({"dict"}))
    if name == "Tensor":  # never written in a config, so `float | Tensor` is a float there
        return Accepts()
    found = _alias(module.name, dotted, depth - 1) if "." not in dotted else None
    return _accepts(found[1], found[0], depth - 1) if found is not None else None


def _accepts_subscript(node: ast.Subscript, module: Module, depth: int) -> Accepts | None:
    name = (dotted_name(node.value) or "").rsplit(".", 1)[-1]
    inner = list(node.slice.elts) if isinstance(node.slice, ast.Tuple) else [node.slice]
    if name == "Literal":
        values = [ast.literal_eval(item) for item in inner if isinstance(item, ast.Constant)]
        return Accepts(choices=tuple(values)) if len(values) == len(inner) else None
    if name == "Optional":
        return _union([_accepts(inner[0], module, depth - 1), Accepts(frozenset({"None"}))])
    if name == "Union":
        return _union([_accepts(item, module, depth - 1) for item in inner])
    if name in ("Annotated", "Final"):
        return _accepts(inner[0], module, depth - 1)
    if name in _LISTS:
        return Accepts(frozenset({"list"}))
    if name in _DICTS:
        return Accepts(frozenset({"dict"}))
    if name in _PATHS:
        return Accepts(frozenset({"str"}))
    return None


def _union(parts: list[Accepts | None]) -> Accepts | None:
    together = Accepts()
    for part in parts:
        if part is None:
            return None
        together = replace(
            together, types=together.types | part.types, choices=(*together.choices, *part.choices)
        )
    return together


def _alias(module: str, name: str, depth: int) -> tuple[Module, ast.expr] | None:
    """The annotation that a type alias such as `Split = Literal["train", "test"]` stands for."""
    found = read_module(module)
    if found is None or depth == 0:
        return None
    node = found.definitions.get(name)
    if isinstance(node, Alias):
        return (found, node.value) if node.value is not None else None
    if isinstance(node, Import) and node.name is not None and node.module.split(".")[0] not in _CLASSES_ONLY:
        return _alias(node.module, node.name, depth - 1)
    return None


def _public(names: set[str]) -> list[str]:
    return sorted(name for name in names if not name.startswith("_"))
