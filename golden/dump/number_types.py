# SPDX-License-Identifier: Apache-2.0
"""Rewrites source code, as an `ast`, to compute in float64 where it says float32 (or BF16)."""

from __future__ import annotations

import ast


def _double(node: ast.expr) -> ast.expr:
    return ast.Call(ast.Attribute(node, "double", ast.Load()), [], [])


class _WidenPolar(ast.NodeTransformer):
    """torch.polar(r, angle) becomes torch.polar(r.double(), angle.double()): float32 angles, float64
    sines."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.func, ast.Attribute) and node.func.attr == "polar":
            node.args = [_double(argument) for argument in node.args]
        return node


class WidenTypes(ast.NodeTransformer):
    """torch.<name> becomes torch.float64 for each of `names`, and x.float() becomes x.double().

    The functions in `float32_angles` keep their types up to the angles of their rotations, whose sines are
    then float64.
    """

    def __init__(self, names: tuple[str, ...], float32_angles: tuple[str, ...] = ()):
        self.names, self.float32_angles = names, float32_angles

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        return _WidenPolar().visit(node) if node.name in self.float32_angles else self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.value, ast.Name) and node.value.id == "torch" and node.attr in self.names:
            node.attr = "float64"
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.func, ast.Attribute) and node.func.attr == "float" and not node.args:
            node.func.attr = "double"
        return node
