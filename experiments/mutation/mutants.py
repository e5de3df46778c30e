"""The mutants of a module: cosmic-ray's, and one operator of our own."""

from __future__ import annotations

import ast
import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Operator
from cosmic_ray.plugins import get_operator

PAIRS = [
    ("minimum", "maximum"),
    ("min", "max"),
    ("logical_and", "logical_or"),
    ("any", "all"),
    ("zeros", "ones"),
    ("zeros_like", "ones_like"),
]
SWAPPED = dict(PAIRS) | {b: a for a, b in PAIRS}
LIMITS = {f"ReplaceComparisonOperator_{pair}" for pair in ("Lt_LtE", "LtE_Lt", "Gt_GtE", "GtE_Gt")}


class SwapFunction(Operator):  # type: ignore[misc]
    """Puts a function's counterpart in its place."""

    def mutation_positions(self, node: Any) -> Iterator[Any]:
        """Where the function is called or handed on."""
        if node.type == "name" and node.value in SWAPPED and not node.is_definition():
            keyword = node.parent.type == "argument" and node.parent.children[0] is node
            if not keyword:
                yield node.start_pos, node.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        """The other name."""
        node.value = SWAPPED[node.value]
        return node

    @classmethod
    def examples(cls) -> tuple[()]:
        """None."""
        return ()


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One change of a module: an occurrence of an operator, and the line where it is."""

    operator: str
    occurrence: int
    line: int


def mutants(source: str, operators: Iterable[str]) -> list[Mutant]:
    """All but those of annotations and strings, in the order of the lines."""
    left_out, lines = list(_left_out(source)), source.splitlines()
    choices = list(_choices(source))
    found = []
    for name in operators:
        operator, number = _operator(name), itertools.count()
        for node in ast_nodes(get_ast(source)):
            for start, _ in operator.mutation_positions(node):
                mutant = Mutant(name, next(number), start[0])
                before = lines[start[0] - 1][: start[1]]
                if name.endswith("USub_UAdd") and before.endswith(("axis=", "shape[")):
                    continue  # of rows the axes -1 and +1 are the same
                if lines[start[0] - 1][start[1] :].startswith("*,"):
                    continue  # no product: from there on arguments go by keyword
                if name in LIMITS and any(first <= start < last for first, last in choices):
                    continue  # which of two equal numbers is taken
                if not any(first <= start < last for first, last in left_out):
                    found.append(mutant)
    return sorted(found, key=lambda m: m.line)


def mutate(source: str, mutant: Mutant) -> str:
    """The source with this change."""
    code: str = mutate_code(source, _operator(mutant.operator), mutant.occurrence)
    return code


def _operator(name: str) -> Any:
    return SwapFunction() if name == "SwapFunction" else get_operator(f"core/{name}")()


def _left_out(source: str) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Annotations and strings."""
    for node in ast.walk(ast.parse(source)):
        parts = [getattr(node, "annotation", None), getattr(node, "returns", None)]
        for part in [*parts, node if isinstance(node, ast.JoinedStr) else None]:
            if part is not None:
                yield _extent(part)


def _extent(node: Any) -> tuple[tuple[int, int], tuple[int, int]]:
    return (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)


def _choices(source: str) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Where the smaller or the larger of two is taken: `a if a < b else b`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.IfExp) and isinstance(node.test, ast.Compare):
            test = node.test
            pair = {ast.dump(side) for side in (test.left, *test.comparators)}
            if pair == {ast.dump(node.body), ast.dump(node.orelse)}:
                yield _extent(test)


def same(source: str, code: str) -> bool:
    """Whether the change is none, or no Python."""
    try:
        return ast.dump(ast.parse(code)) == ast.dump(ast.parse(source))
    except SyntaxError:
        return True
