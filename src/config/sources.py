"""Modules as source: where a name is defined, found by reading files. Nothing is imported or run."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

DEPTH = 12  # of re-exports and base classes; real chains are shorter than half of it


@dataclass(frozen=True)
class Import:
    """`from module import name`, or `import module` where name is None."""

    module: str
    name: str | None


@dataclass(frozen=True)
class Alias:
    """`name = value`."""

    value: ast.expr | None


_Definition = ast.ClassDef | ast.FunctionDef | Import | Alias


@dataclass(frozen=True)
class Module:
    """The names at the top level of one source file."""

    name: str
    package: bool
    file: Path
    definitions: dict[str, _Definition]
    stars: tuple[str, ...]
    dynamic: bool

    def names(self) -> frozenset[str]:
        """Every name the module has, star imports included."""
        return _names(self.name)

    def public(self) -> set[str]:
        """Classes and functions defined here."""
        kinds = (ast.ClassDef, ast.FunctionDef)
        return {name for name, node in self.definitions.items() if isinstance(node, kinds) and name[0] != "_"}

    def conclusive(self) -> bool:
        """Whether a name that is not found here is really not there."""
        return not self.dynamic and all(
            (found := read_module(star)) is not None and found.conclusive() for star in self.stars
        )

    def submodules(self) -> Iterator[str]:
        """Files and folders of a package; nothing in a plain file."""
        for entry in self.file.parent.iterdir() if self.package else ():
            if entry.suffix == ".py" and entry.stem != "__init__":
                yield entry.stem
            elif (entry / "__init__.py").is_file():
                yield entry.name


@cache
def _names(module: str) -> frozenset[str]:
    found = read_module(module)
    if found is None:
        return frozenset()
    return frozenset(found.definitions).union(*(_names(star) for star in found.stars if star != module))


@cache
def package_folders(package: str) -> tuple[Path, ...] | None:
    """The folders, or the one file, of a top-level package; its code is not run."""
    try:
        spec = find_spec(package)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if spec.submodule_search_locations is not None:
        return tuple(Path(location) for location in spec.submodule_search_locations)
    return (Path(spec.origin),) if spec.origin else None


@cache
def _file(module: str) -> Path | None:
    parts = module.split(".")
    for location in package_folders(parts[0]) or ():
        if location.suffix == ".py":
            if len(parts) == 1:
                return location
            continue
        path = location.joinpath(*parts[1:])
        for candidate in (path / "__init__.py", path.with_name(path.name + ".py")):
            if candidate.is_file():
                return candidate
    return None


def longest_module(parts: list[str]) -> tuple[str, list[str]]:
    """The longest leading part of a dotted name that is a source file, and the names that remain."""
    for length in range(len(parts), 0, -1):
        if _file(".".join(parts[:length])) is not None:
            return ".".join(parts[:length]), parts[length:]
    return parts[0], parts[1:]


@cache
def read_module(name: str) -> Module | None:
    """The names at the top level of a module, None where there is no readable source."""
    file = _file(name)
    if file is None:
        return None
    try:
        text = file.read_text(encoding="utf-8")
        tree = ast.parse(text)
    except (SyntaxError, UnicodeDecodeError):
        return None
    package = file.name == "__init__.py"
    definitions: dict[str, _Definition] = {}
    stars: list[str] = []
    for node in _statements(tree.body):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            if not (isinstance(node, ast.FunctionDef) and decorated(node, "overload")):
                definitions[node.name] = node
        elif isinstance(node, ast.ImportFrom):
            source = _absolute(name, package, node)
            for alias in node.names:
                if alias.name == "*":
                    stars.append(source)
                else:
                    definitions.setdefault(alias.asname or alias.name, Import(source, alias.name))
        elif isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name if alias.asname else alias.name.split(".")[0]
                definitions.setdefault(alias.asname or top, Import(top, None))
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    definitions[target.id] = Alias(node.value)
                elif isinstance(target, ast.Tuple):
                    for element in target.elts:
                        if isinstance(element, ast.Name):
                            definitions[element.id] = Alias(None)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            definitions[node.target.id] = Alias(node.value)
    # A lazy package would have us read all of its files; phase 2 imports it instead.
    lazy = "_LazyModule" in text
    dynamic = lazy or any(word in text for word in ("def __getattr__", "globals()", "exec("))
    return Module(name, package, file, definitions, () if lazy else tuple(stars), dynamic)


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Top-level statements, those below `if` and `try` included."""
    for node in body:
        if isinstance(node, ast.If):
            yield from _statements([*node.body, *node.orelse])
        elif isinstance(node, ast.Try):
            handlers = [statement for handler in node.handlers for statement in handler.body]
            yield from _statements([*node.body, *handlers, *node.orelse, *node.finalbody])
        else:
            yield node


def _absolute(module: str, package: bool, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    parts = module.split(".")
    parts = parts[: len(parts) - node.level + (1 if package else 0)]
    return ".".join([*parts, *([node.module] if node.module else [])])


def find_definition(target: str) -> tuple[Module, ast.ClassDef | ast.FunctionDef] | None:
    """The class, function or classmethod that a dotted name means, and the module it is defined in."""
    path, rest = longest_module(target.split("."))
    if not rest or len(rest) > 2:
        return None
    found = _follow(path, rest[0], DEPTH)
    if found is None or len(rest) == 1:
        return found
    module, node = found
    if not isinstance(node, ast.ClassDef):
        return None
    for method in node.body:
        if (
            isinstance(method, ast.FunctionDef)
            and method.name == rest[1]
            and decorated(method, "classmethod")
        ):
            return module, method
    return None


def _follow(module: str, name: str, depth: int) -> tuple[Module, ast.ClassDef | ast.FunctionDef] | None:
    """The class or function that `name` means in `module`, through re-exports, aliases and star imports."""
    found = read_module(module)
    if found is None or depth == 0:
        return None
    node = found.definitions.get(name)
    if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
        return found, node
    if isinstance(node, Import):
        return None if node.name is None else _follow(node.module, node.name, depth - 1)
    if isinstance(node, Alias):
        return None if node.value is None else follow_expression(found, node.value, depth - 1)
    for star in found.stars:
        below = _follow(star, name, depth - 1)
        if below is not None:
            return below
    return None


def follow_expression(
    module: Module, expression: ast.expr, depth: int
) -> tuple[Module, ast.ClassDef | ast.FunctionDef] | None:
    """The class or function that `X`, `package.X` or `X[T]` means in `module`."""
    if isinstance(expression, ast.Subscript):
        expression = expression.value
    dotted = dotted_name(expression)
    if dotted is None or depth == 0:
        return None
    first, *rest = dotted.split(".")
    if not rest:
        return _follow(module.name, first, depth)
    node = module.definitions.get(first)
    if not isinstance(node, Import):
        return None
    full = ".".join([node.module, *([node.name] if node.name else []), *rest])
    path, remaining = longest_module(full.split("."))
    return _follow(path, remaining[0], depth - 1) if len(remaining) == 1 else None


def dotted_name(node: ast.expr) -> str | None:
    """`a.b.c` of a name or attribute, None of anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        below = dotted_name(node.value)
        return f"{below}.{node.attr}" if below else None
    return None


def decorated(node: ast.FunctionDef | ast.ClassDef, name: str) -> bool:
    """Whether a decorator of that name stands above a class or function."""
    return decorator_named(node, name) is not None


def decorator_named(node: ast.FunctionDef | ast.ClassDef, name: str) -> ast.expr | None:
    """The decorator of that name, None where there is none."""
    for decorator in node.decorator_list:
        called = decorator.func if isinstance(decorator, ast.Call) else decorator
        if (dotted_name(called) or "").rsplit(".", 1)[-1] == name:
            return decorator
    return None
