# SPDX-License-Identifier: Apache-2.0
"""Recording every intermediate of somebody else's source code, without changing what it computes.

The source is parsed with `ast`; in each method every assignment, in-place call and return also reports
(function, variable, occurrence, value) to a recorder. A table of sites (official_sites.tsv) says which report
is which tap. Its columns:

  function  the method that computes it, "Attention.forward"
  call      which call of that method by the same caller, "-" for any
            (hc_pre is called for attention, then for the FFN)
  value     q#1                 the second value (from 0) that the method gives to q;  q#* any
            kv after norm       what kv has after a statement whose outermost call is norm(...)
            y before            the value of y before an augmented assignment  y += ...
            weights final       the last value before the method returns
            self.state final    the attribute then
            return, return[0]   what it returns, or an item of that
            self.wq_a(x)        that very expression
  tap       .qr: below the module that runs;  ^embed: below the model or MTP block that runs;
            {i}: value of the variable i
  transform applied to the value, by name
"""

from __future__ import annotations

import ast
import csv
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Optional

SITE = re.compile(
    r"(?P<name>.+?)"
    r"(?:#(?P<index>\d+|\*)| after (?P<after>\w+)| (?P<before>before)| (?P<final>final)|\[(?P<item>\d+)\])?"
)


@dataclass(frozen=True)
class Site:
    """One line of the table of sites, parsed."""

    function: str
    call: Optional[int]
    name: str
    when: str  # "#1", "#*", "after norm", "before", "final" or ""
    item: Optional[int]
    tap: str
    transform: str

    def matches(self, index: int, via: str) -> bool:
        if self.when == "before" or via == "before":
            return self.when == via
        if self.when.startswith("after "):
            return via == self.when[6:]
        return self.when in ("", "#*", f"#{index}")


def read_sites(path: Path) -> list[Site]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [_parse_site(row) for row in rows]


def _parse_site(row: dict[str, str]) -> Site:
    match = SITE.fullmatch(row["value"])
    assert match is not None
    part = match.groupdict()
    when = (
        f"#{part['index']}"
        if part["index"]
        else f"after {part['after']}"
        if part["after"]
        else part["before"] or part["final"] or ""
    )
    call = None if row["call"] == "-" else int(row["call"])
    item = int(part["item"]) if part["item"] else None
    return Site(row["function"], call, part["name"], when, item, row["tap"], row["transform"])


# ---- rewriting -----------------------------------------------------------------------------------

RECORDER, REPORT = "__recorder__", "__report__"


def _report(name: str, value: ast.expr, via: str = "") -> ast.Call:
    return ast.Call(ast.Name(REPORT, ast.Load()), [ast.Constant(name), value, ast.Constant(via)], [])


def _report_variable(name: str, via: str = "") -> ast.Expr:
    return ast.Expr(_report(name, ast.Name(name, ast.Load()), via))


def _called_name(node: ast.expr) -> str:
    """`norm` for self.norm(...), `sum` for (...).sum(...), "" for what is no call."""
    if not isinstance(node, ast.Call):
        return ""
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def _base_variable(node: ast.expr) -> Optional[str]:
    """`q` for q and for q[..., -rd:]"""
    while isinstance(node, ast.Subscript):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


def _assigned(target: ast.expr) -> list[str]:
    items = target.elts if isinstance(target, (ast.Tuple, ast.List)) else [target]
    return [item.id for item in items if isinstance(item, ast.Name)]


class _MethodRewriter(ast.NodeTransformer):
    """Adds reports to the body of one method. `expressions`: texts of expressions that report too."""

    def __init__(self, expressions: frozenset[str]):
        self.expressions = expressions

    def visit(self, node: ast.AST) -> Any:
        text = ast.unparse(node) if self.expressions and isinstance(node, ast.Call) else ""
        result = super().visit(node)
        return _report(text, result) if text in self.expressions else result

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        return node  # nested functions are left alone

    def visit_Assign(self, node: ast.Assign) -> list[ast.stmt]:
        via = _called_name(node.value)
        self.generic_visit(node)
        return [node, *(_report_variable(name, via) for target in node.targets for name in _assigned(target))]

    def visit_AugAssign(self, node: ast.AugAssign) -> list[ast.stmt]:
        self.generic_visit(node)
        name = _base_variable(node.target)
        if name is None:
            return [node]
        before = [_report_variable(name, "before")] if isinstance(node.target, ast.Name) else []
        return [*before, node, _report_variable(name)]

    def visit_Expr(self, node: ast.Expr) -> list[ast.stmt]:
        via = _called_name(node.value)
        arguments = node.value.args if isinstance(node.value, ast.Call) else []
        name = _base_variable(arguments[0]) if arguments else None
        self.generic_visit(node)
        return [node, _report_variable(name, via)] if name else [node]

    def visit_For(self, node: ast.For) -> ast.For:
        self.generic_visit(node)
        node.body = [*(_report_variable(name) for name in _assigned(node.target)), *node.body]
        return node

    def visit_Return(self, node: ast.Return) -> ast.Return:
        self.generic_visit(node)
        return ast.Return(_report("return", node.value or ast.Constant(None)))


class Instrument(ast.NodeTransformer):
    """Rewrites every method (but constructors) of every class so that it reports."""

    def __init__(self, sites: list[Site]):
        self.expressions: dict[str, set[str]] = defaultdict(set)
        for site in sites:
            if "(" in site.name:
                self.expressions[site.function].add(ast.unparse(ast.parse(site.name, mode="eval")))
        self.class_name = ""

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        self.class_name = node.name
        self.generic_visit(node)
        self.class_name = ""
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        arguments = [argument.arg for argument in node.args.args]
        if not self.class_name or node.name.startswith("__") or arguments[:1] != ["self"]:
            return node
        function = f"{self.class_name}.{node.name}"
        rewriter = _MethodRewriter(frozenset(self.expressions[function]))
        body: list[ast.stmt] = []
        for statement in node.body:
            result = rewriter.visit(statement)
            body.extend(result if isinstance(result, list) else [result])
        node.body = [self._frame(function, arguments, body)]
        return node

    @staticmethod
    def _frame(function: str, arguments: list[str], body: list[ast.stmt]) -> ast.With:
        """with __recorder__.frame(self, "Class.method", {"x": x, ...}) as __report__: body"""
        values = ast.Dict(
            [ast.Constant(name) for name in arguments], [ast.Name(name, ast.Load()) for name in arguments]
        )
        frame = ast.Attribute(ast.Name(RECORDER, ast.Load()), "frame", ast.Load())
        call = ast.Call(frame, [ast.Name("self", ast.Load()), ast.Constant(function), values], [])
        return ast.With([ast.withitem(call, ast.Name(REPORT, ast.Store()))], body)


# ---- recording -----------------------------------------------------------------------------------


class Frame:
    """One call of one method: numbers its reports and hands those that a site wants to the recorder."""

    def __init__(self, recorder: Recorder, module: object, function: str, arguments: dict[str, Any]):
        self.recorder, self.module, self.function = recorder, module, function
        self.path = recorder.paths.get(id(module), "?")
        self.latest: dict[str, Any] = dict(arguments)
        self.counts: dict[str, int] = defaultdict(int)
        self.children: dict[str, int] = defaultdict(int)
        self.sites: dict[str, list[Site]] = {}
        self.final: dict[Site, Any] = {}

    def __enter__(self) -> Frame:
        parent = self.recorder.stack[-1] if self.recorder.stack else None
        call = 0
        if parent is not None:
            call = parent.children[self.function]
            parent.children[self.function] += 1
        for site in self.recorder.sites.get(self.function, ()):
            if site.call in (None, call):
                self.sites.setdefault(site.name, []).append(site)
        self.recorder.stack.append(self)
        return self

    def __call__(self, name: str, value: Any, via: str = "") -> Any:
        self.latest[name] = value
        index = self.counts[name]
        self.counts[name] += via != "before"
        for site in self.sites.get(name, ()):
            if site.when == "final":
                self.final[site] = value
            elif site.matches(index, via):
                self.recorder.take(self, site, value)
        return value

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        if kind is None:
            for name, sites in self.sites.items():
                for site in sites:
                    if site.when == "final" and name.startswith("self."):
                        self.recorder.take(self, site, getattr(self.module, name[5:]))
                    elif site in self.final:
                        self.recorder.take(self, site, self.final[site])
        self.recorder.stack.pop()

    def scope(self) -> str:
        """Path of the model ("") or MTP block ("mtp.0") that this call is part of."""
        for frame in reversed(self.recorder.stack):
            if re.fullmatch(r"|mtp\.\d+", frame.path):
                return frame.path
        return ""


class Recorder:
    """Collects the taps that `wants(name)`; `values[name]` is what `keep(name, value)` made of the reported
    value."""

    def __init__(
        self,
        sites: list[Site],
        wants: Callable[[str], bool],
        keep: Callable[[str, Any], Any],
        transforms: dict[str, Callable[[Any, Frame], Any]],
    ):
        self.sites: dict[str, list[Site]] = defaultdict(list)
        for site in sites:
            self.sites[site.function].append(site)
        self.wants, self.keep, self.transforms = wants, keep, transforms
        self.paths: dict[int, str] = {}
        self.stack: list[Frame] = []
        self.values: dict[str, Any] = {}

    def bind(self, named_modules: Any) -> None:
        """Learn the module paths: an iterable of (path, module)."""
        self.paths = {id(module): path for path, module in named_modules}

    def frame(self, module: object, function: str, arguments: dict[str, Any]) -> Frame:
        return Frame(self, module, function, arguments)

    def take(self, frame: Frame, site: Site, value: Any) -> None:
        if site.item is not None:
            value = value[site.item]
        prefix = frame.scope() if site.tap[0] == "^" else frame.path
        name = f"{prefix}.{site.tap[1:]}".removeprefix(".")
        if "{" in name:
            name = name.format_map(frame.latest)
        if value is None or not self.wants(name):
            return
        if site.transform != "-":
            value = self.transforms[site.transform](value, frame)
        self.values[name] = self.keep(name, value)
