"""Rules as text: ``parse(repr(rule)) == rule``.  The text is read, never run."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from typing import Any

from sharpscope.ascent import masks, perturbations, scores
from sharpscope.core import schedules
from sharpscope.core.expressions import Piece
from sharpscope.optimizers import methods, rules

__all__ = ["RuleError", "parse"]

_BASES = {"Piece", "Rule", "Mask", "Score", "Perturbation", "Schedule"}


class RuleError(ValueError):
    """A text that is no rule: what was got, what was expected, what to do."""


def _vocabulary() -> dict[str, Callable[..., Any]]:
    words: dict[str, Callable[..., Any]] = {name: getattr(methods, name) for name in methods.__all__}
    for module in (rules, perturbations, masks, scores, schedules):
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isclass(value) and issubclass(value, Piece) and name not in _BASES:
                words[name] = value
    return words


def parse(text: str) -> rules.Rule:
    """The rule that a text describes, e.g. ``"rst(ssam_f(rho=0.1, sparsity=0.5), p=0.5)"``.

    Names are those of the methods (``sam``, ``ssam_f``, ...) and of the pieces that a ``repr`` shows (``Ascend``,
    ``Ball``, ...); arguments are numbers, texts, None, True, False and other such expressions.  A bare name stands for
    a call without arguments.  Raises RuleError (a ValueError) for anything else; nothing is evaluated.

    Example:
        >>> parse("rst(sam(rho=0.1), p=0.5)")
        Sometimes(Ascend(Ball(0.1)), p=0.5)
    """
    if not isinstance(text, str):
        raise RuleError(f"the rule got {text!r}, expected a text such as 'sam(rho=0.05)': give it as text")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        reason = getattr(error, "msg", None) or type(error).__name__
        raise RuleError(
            f"the rule got {_short(text)!r}, expected a text such as 'sam(rho=0.05)': mend its syntax ({reason})"
        ) from None
    try:
        rule = _build(tree, text, _vocabulary())
    except RecursionError:
        raise RuleError(
            f"the rule got {_short(text)!r}, expected a text such as 'sam(rho=0.05)': nest it less deeply"
        ) from None
    if not isinstance(rule, rules.Rule):
        raise RuleError(f"the rule got {text!r}, expected a rule such as {_known()}: wrap it in one of those")
    return rule


def _short(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]}... ({len(text)} characters)"


def _known() -> str:
    return ", ".join(methods.__all__)


def _build(node: ast.expr, text: str, words: dict[str, Callable[..., Any]]) -> Any:
    if isinstance(node, ast.Constant) and (node.value is None or isinstance(node.value, (bool, int, float, str))):
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = _build(node.operand, text, words)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return -value
    if isinstance(node, ast.Name):
        node = ast.copy_location(ast.Call(func=node, args=[], keywords=[]), node)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and all(k.arg for k in node.keywords):
        return _call(node, node.func.id, text, words)
    raise RuleError(
        f"the rule got {ast.unparse(node)!r} in {text!r}, expected a number, a text or a call such as sam(rho=0.05): "
        f"write it as one of those"
    )


def _call(node: ast.Call, name: str, text: str, words: dict[str, Callable[..., Any]]) -> Any:
    if name not in words:
        raise RuleError(f"the rule got the name {name!r} in {text!r}, expected one of {_known()}: change the name")
    given = [k.arg for k in node.keywords]
    if len(set(given)) < len(given):
        raise RuleError(f"{name} got {ast.unparse(node)!r}, expected every argument once: remove the repeated one")
    args = [_build(arg, text, words) for arg in node.args]
    keywords = {str(k.arg): _build(k.value, text, words) for k in node.keywords}
    try:
        inspect.signature(words[name]).bind(*args, **keywords)
    except TypeError as error:
        expected = ", ".join(inspect.signature(words[name]).parameters) or "no arguments"
        raise RuleError(
            f"{name} got {ast.unparse(node)!r} ({error}), expected {expected}: change its arguments"
        ) from None
    try:
        return words[name](*args, **keywords)
    except (TypeError, OverflowError) as error:
        raise RuleError(f"{name} got {ast.unparse(node)!r}, expected other arguments: {error}") from None
