"""Rules as text: ``parse(repr(rule)) == rule``.  The text is read, never run.

A text names pieces of sharpscope and those that the caller hands in as objects; it cannot import any, so a text out of
a stranger's file does nothing.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import numbers
from collections.abc import Callable, Sequence
from typing import Any

from sharpscope.ascent import climbs, masks, perturbations, scores
from sharpscope.core import schedules
from sharpscope.core.expressions import Piece, parts
from sharpscope.optimizers import established, methods, rules

__all__ = ["RuleError", "check_text", "parse"]

_BASES = {"Piece", "Rule", "Mask", "Score", "Perturbation", "Schedule"}
_MODULES = (rules, established, perturbations, climbs, masks, scores, schedules)

Words = dict[str, Callable[..., Any]]


class RuleError(ValueError):
    """A text that is no rule: what was got, what was expected, what to do."""


def _own() -> Words:
    words: Words = {name: getattr(methods, name) for name in methods.__all__}
    for module in _MODULES:
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isclass(value) and issubclass(value, Piece) and name not in _BASES:
                words[name] = value
    return words


def _vocabulary(pieces: Sequence[Callable[..., Any]]) -> Words:
    """All names that a text may use.  Raises RuleError for a handed-in piece that is none, or whose name is taken."""
    words = _own()
    for piece in pieces:
        name = getattr(piece, "__name__", "")
        kind = inspect.isfunction(piece) or (inspect.isclass(piece) and issubclass(piece, Piece))
        if not kind or not name.isidentifier():
            raise RuleError(
                f"pieces got {piece!r}, expected classes of yours (of a Rule, Perturbation, Metric, Mask, Score or "
                f"Schedule), or functions that make one: hand in the class itself"
            )
        if name in _BASES or words.get(name, piece) is not piece:
            raise RuleError(
                f"pieces got a {name} from {piece.__module__}, expected another name, as {name} is taken: rename it"
            )
        words[name] = piece
    return words


def check_text(rule: rules.Rule) -> None:
    """Raise TypeError unless ``repr(rule)`` is a text with a way back: of frozen dataclasses with plain fields."""
    own = set(_own().values())
    for piece in parts(rule):
        kind = type(piece)
        if kind in own:
            continue
        if "__init__" in vars(kind) and "__dataclass_params__" not in vars(kind):
            raise TypeError(
                f"the rule got a {kind.__name__} with an __init__ of its own, expected a dataclass, whose fields make "
                f"its text: decorate it with @dataclasses.dataclass(frozen=True) and declare its fields"
            )
        for field in dataclasses.fields(piece):
            value = getattr(piece, field.name)
            if field.init and not (value is None or isinstance(value, (str, numbers.Real, Piece))):
                raise TypeError(
                    f"the rule got a {kind.__name__} with {field.name}={value!r}, expected a number, a text, None or a "
                    f"piece, which have a text to be stored as: keep what it needs in another form"
                )


def parse(text: str, pieces: Sequence[Callable[..., Any]] = ()) -> rules.Rule:
    """The rule that a text describes, e.g. ``"rst(ssam_f(rho=0.1, sparsity=0.5), p=0.5)"``.

    Names are those of the methods (``sam``, ``ssam_f``, ...) and of the pieces that a ``repr`` shows (``Ascend``,
    ``Ball``, ...); arguments are numbers, texts, None, True, False and other such expressions.  A bare name stands for
    a call without arguments.  Raises RuleError (a ValueError) for anything else; nothing is evaluated or imported.

    Args:
        text: of the rule.
        pieces: classes of your own (frozen dataclasses) that the text may name too, and functions that make one.

    Example:
        >>> parse("rst(sam(rho=0.1), p=0.5)")
        Sometimes(Ascend(Ball(0.1)), p=0.5)
        >>> @dataclasses.dataclass(frozen=True)
        ... class Doubled(rules.Rule):
        ...     rule: rules.Rule
        >>> parse("rst(Doubled(sam(rho=0.1)), p=0.5)", pieces=[Doubled])
        Sometimes(Doubled(Ascend(Ball(0.1))), p=0.5)
    """
    if not isinstance(text, str):
        raise RuleError(f"the rule got {text!r}, expected a text such as 'sam(rho=0.05)': give it as text")
    words = _vocabulary(pieces)
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        reason = getattr(error, "msg", None) or type(error).__name__
        raise RuleError(
            f"the rule got {_short(text)!r}, expected a text such as 'sam(rho=0.05)': mend its syntax ({reason})"
        ) from None
    try:
        rule = _build(tree, text, words)
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


def _build(node: ast.expr, text: str, words: Words) -> Any:
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


def _call(node: ast.Call, name: str, text: str, words: Words) -> Any:
    if name not in words:
        raise RuleError(
            f"the rule got the name {name!r} in {_short(text)!r}, expected one of {_known()}, a piece that a repr "
            f"shows, or one of yours: change the name, or hand yours in with pieces=[{name}], or with --pieces "
            f"module:{name} on the command line"
        )
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
    except (ValueError, RecursionError):
        raise  # they say it themselves
    except Exception as error:  # a piece of the user's may raise anything
        raise RuleError(f"{name} got {ast.unparse(node)!r}, expected other arguments: {error}") from None
