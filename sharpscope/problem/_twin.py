"""The problem's own copy of a model: evaluated at any weights, so that nothing of the user's module is ever moved.

The copy is structural: what the module keeps of itself (lists of its parameters, functions over it, hooks) follows.
Weights are put in the places of the copy's parameters and stay there until the next ones come, so that what a backward
pass computes again (activation checkpointing) is computed at the same weights.  A model that keeps second references
to its parameters is evaluated by moving the copy's own leaves instead (``moving``).
"""

from __future__ import annotations

import contextlib
import copy
import threading
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from sharpscope.core.surroundings import without_autocast
from sharpscope.core.vectors import Vec

__all__ = ["Twin", "drawing", "plain_attention"]

# Forward mode and random states belong to the process, a twin to its problem: one evaluation at a time.
_ALONE = threading.RLock()


class Twin:
    """A copy of ``model`` in eval mode that shares nothing with it.

    ``names`` are the trainable parameters in their order, ``leaves`` the copy's own, ``shared`` is whether the model
    could not be copied: then it is evaluated itself, its tensors and modes being put back when the guard is left.
    """

    def __init__(self, model: nn.Module) -> None:
        self.module, self.shared = _copied(model)
        self.names = tuple(name for name, p in model.named_parameters() if p.requires_grad)
        self.depth = 0
        self.moving = False  # whether weights are moved into the leaves rather than put in their places
        self.guarding = False  # whether weights are cloned before a forward that writes into them
        self._modes: list[tuple[nn.Module, bool]] = []
        self.attends = self.random = True  # whether there is attention, and random numbers: until the audit knows
        self._look()

    @property
    def attends_by_module(self) -> bool:
        """Whether there are modules of torch with attention, which have fast paths of other outputs."""
        return any(isinstance(m, (nn.MultiheadAttention, nn.TransformerEncoder)) for m in self.module.modules())

    def _look(self) -> None:
        """Where parameters and buffers stand; tied ones stand in several places."""
        own = dict(self.module.named_parameters())
        self.leaves: Vec = [own[name] for name in self.names]
        self.weights: Vec = [p.detach() for p in self.leaves]  # the copy's own
        self.buffers = dict(self.module.named_buffers())
        by_identity = {id(x): name for name, x in (*own.items(), *self.buffers.items())}
        self.places: dict[str, list[tuple[dict[str, Any], str]]] = {}
        self._own: list[tuple[dict[str, Any], str, Tensor | None]] = []
        for module in self.module.modules():
            for holder in (module._parameters, module._buffers):
                for leaf, x in holder.items():
                    self._own.append((holder, leaf, x))
                    if x is not None and id(x) in by_identity:
                        self.places.setdefault(by_identity[id(x)], []).append((holder, leaf))
        self.kept = {name: (x._version, x.detach().clone()) for name, x in self.buffers.items()}

    def follow(self, model: nn.Module) -> None:
        """Take over the weights and buffers of the model as they are now."""
        if self.shared:
            self._look()
            return
        with torch.no_grad():
            for mine, theirs in zip(self.module.parameters(), model.parameters(), strict=True):
                mine.copy_(theirs)
            for kept, now in zip(self.module.buffers(), model.buffers(), strict=True):
                kept.copy_(now)
        self._look()
        if self.moving:
            self.move()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Eval mode, without autocast, while no other problem is evaluated; everything as it was afterwards."""
        with _ALONE, contextlib.ExitStack() as stack:
            self.depth += 1
            if self.depth == 1:
                self._modes = [(module, module.training) for module in self.module.modules()]
                if any(training for _, training in self._modes):
                    self.module.eval()
                device = self.leaves[0].device
                stack.enter_context(without_autocast(device.type))
                if self.random:
                    stack.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else []))
                if self.attends:
                    stack.enter_context(plain_attention())
            try:
                yield
            finally:
                self.depth -= 1
                if self.depth == 0:
                    self._settle()

    def move(self) -> None:
        """From now on, move weights into the leaves."""
        self.moving, self.weights = True, [p.detach().clone() for p in self.leaves]

    def _settle(self) -> None:
        for module, training in self._modes:
            module.training = training
        for holder, place, x in self._own:
            holder[place] = x
        with torch.no_grad():
            if self.moving:
                for own, weight in zip(self.leaves, self.weights, strict=True):
                    own.copy_(weight)
            for name, (version, value) in self.kept.items():
                if self.buffers[name]._version != version:
                    self.buffers[name].copy_(value)
                    self.kept[name] = (self.buffers[name]._version, value)

    def put(self, weights: Sequence[Tensor], values: Mapping[str, Tensor] | None = None) -> None:
        """Weights, in the order of ``names``, and other ``values`` by name in the places of those of the copy."""
        torch.clear_autocast_cache()  # casts of what stood there before
        if self.moving:
            with torch.no_grad():
                for leaf, weight in zip(self.leaves, weights, strict=True):
                    if leaf is not weight:
                        leaf.copy_(weight)
            weights = self.leaves
        given = dict(zip(self.names, weights, strict=True)) | dict(values or {})
        for name, value in given.items():
            for holder, place in self.places[name]:
                holder[place] = value.clone() if self.guarding and not self.moving else value

    def leaves_at(self, weights: Sequence[Tensor]) -> Vec:
        """``weights`` as leaves of a graph; those of the copy where weights are moved into it."""
        if not self.moving:
            return [w.detach().requires_grad_() for w in weights]
        self.put(weights)
        return self.leaves

    def called(self, function: Callable[..., Any] | None, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """The copy called, or ``function`` called with it."""
        return self.module(*args, **kwargs) if function is None else function(self.module, *args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Twin:
        found = copy.copy(self)
        memo[id(self)] = found
        found.module = self.module if self.shared else copy.deepcopy(self.module, memo)
        found.depth = 0
        found._look()
        return found


@contextlib.contextmanager
def drawing(seed: int | None, device: torch.device) -> Iterator[None]:
    """Inside, random numbers begin with ``seed``; the states of the process are as they were afterwards."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            torch.cuda.manual_seed(seed)
        yield


class plain_attention(TorchFunctionMode):
    """Attention by plain products, which have second derivatives, with and without gradients alike.

    Under a function mode torch leaves aside the fast paths of its transformers, which without gradients compute other
    outputs; and unlike ``sdpa_kernel`` it is this thread's alone.
    """

    seen = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            self.seen = True
            return _attended(*args, **kwargs)
        if func is F.multi_head_attention_forward and not kwargs.get("need_weights", True):
            return func(*args, **{**kwargs, "need_weights": True})[0], None
        return func(*args, **kwargs)


def _attended(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *args: Any, **kw: Any) -> Any:
    """``scaled_dot_product_attention`` by plain products."""
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill(~attn_mask, -torch.inf)
    return torch._scaled_dot_product_attention_math(query, key, value, attn_mask, *args, **kw)[0]


def _copied(model: nn.Module) -> tuple[nn.Module, bool]:
    """A copy that shares nothing with the model, and False; the model itself, and True, where that cannot be."""
    for sharing in (False, True):
        memo: dict[int, Any] = {}
        for module in model.modules():
            _prepare(vars(module), memo, sharing)
        try:
            found = copy.deepcopy(model, memo)
        except Exception:  # whatever a user's attributes raise when they are copied
            continue
        for module in found.modules():
            for name, value in list(vars(module).items()):
                vars(module)[name] = _rebound(value, memo)
            if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
                module.sparse = False  # the same function, with gradients that can be differentiated
        return found.eval(), False
    return model, True


_VALUES = (nn.Module, str, bytes, int, float, type(None), type, types.FunctionType, types.BuiltinFunctionType)


def _prepare(value: Any, memo: dict[int, Any], sharing: bool) -> None:
    """Tensors of a graph are copied without it; if ``sharing``, what cannot be copied (a lock, a file) is shared."""
    if isinstance(value, Tensor):
        if not value.is_leaf:
            memo[id(value)] = value.detach().clone()
    elif isinstance(value, (dict, list, tuple)):
        for item in value.values() if isinstance(value, dict) else value:
            _prepare(item, memo, sharing)
    elif sharing and not isinstance(value, _VALUES):
        try:
            copy.deepcopy(value, dict(memo))
        except Exception:  # no part of the function, or the audit tells
            memo[id(value)] = value


def _rebound(value: Any, memo: dict[int, Any]) -> Any:
    """Functions over the model (in attributes, hooks, lists of them) as functions over its copy."""
    if isinstance(value, types.FunctionType) and value.__closure__:
        cells = [_enclosed(cell, memo) for cell in value.__closure__]
        if all(new is old for new, old in zip(cells, value.__closure__, strict=True)):
            return value
        found = types.FunctionType(value.__code__, value.__globals__, value.__name__, value.__defaults__, tuple(cells))
        found.__kwdefaults__, found.__dict__ = value.__kwdefaults__, dict(value.__dict__)
        return found
    if isinstance(value, dict):
        for name, item in list(value.items()):
            if isinstance(item, (types.FunctionType, dict, list)):
                value[name] = _rebound(item, memo)
    elif isinstance(value, list):
        value[:] = [_rebound(item, memo) if isinstance(item, types.FunctionType) else item for item in value]
    return value


def _enclosed(cell: types.CellType, memo: dict[int, Any]) -> types.CellType:
    try:
        held = cell.cell_contents
    except ValueError:  # not filled yet
        return cell
    if id(held) in memo and memo[id(held)] is not held:
        return types.CellType(memo[id(held)])
    if isinstance(held, types.MethodType) and id(held.__self__) in memo:
        return types.CellType(types.MethodType(held.__func__, memo[id(held.__self__)]))
    if isinstance(held, (types.FunctionType, list, dict)):
        new = _rebound(held, memo) if isinstance(held, types.FunctionType) else memo.get(id(held), held)
        return cell if new is held else types.CellType(new)
    return cell
