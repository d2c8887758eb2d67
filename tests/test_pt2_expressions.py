"""Symbolic sizes in .pt2 files, which torch evaluates: every one that torch writes passes, and nothing else."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st
from sympy.printing.repr import srepr
from torch.utils._sympy import functions as sizes

from edgeconv.pt2 import _is_arithmetic


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os').system('touch marker')",
        "eval(chr(95))",
        "exec('1')",
        "open('s0')",
        "Symbol('s0').name",
        "().__class__",
        "f'{s0}'",
        "Symbol(f's0')",
        "Symbol('__import__')",
        'Symbol("s0")',
        "lambda: 1",
        "[s0 for s0 in s1]",
        "Integer(2)**Integer(9)",
        "Symbol('s0'); Symbol('s1')",
        "s0 @ s1",
        "s0.bit_length()",
        "getattr(s0, 's1')",
        "Symbol('s0', positive=True)\nimport os",
        "\\u0065val(s0)",
        "ℯval(s0)",
        "S('1')",
        "Function('s0')",
        "sympify('1')",
        "Lambda(s0, s1)",
    ],
)
def test_expressions_that_are_not_arithmetic(expression: str) -> None:
    assert not _is_arithmetic(expression)


SYMBOLS = st.builds(
    lambda prefix, index, **facts: sympy.Symbol(f"{prefix}{index}", integer=True, **facts),
    st.sampled_from(["s", "u", "ps", "tmp"]),
    st.integers(0, 99),
)
POSITIVE = st.builds(lambda index: sympy.Symbol(f"s{index}", positive=True, integer=True), st.integers(0, 99))
NUMBERS = st.one_of(
    st.integers(-(10**6), 10**6).map(sympy.Integer),
    st.fractions(max_denominator=50).map(sympy.Rational),
    st.floats(-1e6, 1e6).map(sympy.Float),
    st.sampled_from([sympy.oo, -sympy.oo, sympy.S.Half]),
)
BINARY = (
    lambda a, b: a + b,
    lambda a, b: a * b,
    lambda a, b: a - b,
    lambda a, b: sympy.Pow(a, 2, evaluate=False) + b,
    sizes.FloorDiv,
    lambda a, b: sizes.CeilToInt(sizes.IntTrueDiv(a, b)),
    sizes.Mod,
    sizes.PythonMod,
    sizes.Max,
    sizes.Min,
    sizes.FloatTrueDiv,
    lambda a, b: sizes.ModularIndexing(a, 2, b),
    lambda a, b: sizes.TruncToInt(sizes.ToFloat(a)) + b,
)
CONDITIONS = (lambda a, b: a, sympy.Eq, sympy.Ne, sympy.Lt, sympy.Ge, lambda a, b: sympy.And(a > b, sympy.Not(a > 7)))


@settings(max_examples=80, deadline=None)
@given(st.lists(st.one_of(POSITIVE, SYMBOLS, NUMBERS), min_size=2, max_size=6), st.data())
def test_every_size_that_torch_writes_is_arithmetic(leaves: list[Any], data: st.DataObject) -> None:
    expression = leaves[0]
    for leaf in leaves[1:]:
        function = data.draw(st.sampled_from(BINARY))
        with contextlib.suppress(Exception):  # not every operator takes every number, and each says so in its own way
            expression = function(expression, leaf)
    condition = data.draw(st.sampled_from(CONDITIONS))
    with contextlib.suppress(Exception):
        expression = condition(expression, leaves[0])
    text = srepr(expression)
    if "nan" not in text:  # torch has no such size
        assert _is_arithmetic(text), text
