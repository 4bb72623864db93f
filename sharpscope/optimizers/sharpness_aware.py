"""The only optimizer: a rule around any torch optimizer.

The shell gathers parameters, asks the rule for a direction, hands it to the base optimizer as gradients and steps it;
all arithmetic is in the rules.  State and parameter groups are the base optimizer's own objects, so learning-rate
schedulers, checkpoints and hooks see one optimizer.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from sharpscope.ascent.batch import Batch
from sharpscope.ascent.probe import Overflow, Probe
from sharpscope.ascent.shift import Way
from sharpscope.coordinates.bits import unpack
from sharpscope.core.distributed import mean_with_flags, same_on_all_ranks
from sharpscope.core.expressions import parts, resolve
from sharpscope.core.vectors import Vec, mix, norm
from sharpscope.optimizers._after import act_after
from sharpscope.optimizers._checks import as_rule, check_base, check_groups, check_model, check_options
from sharpscope.optimizers._memory import Memory, copied, packed_masks, restructured
from sharpscope.optimizers.rules import Rule
from sharpscope.problem.problem import Problem

__all__ = ["SharpnessAware"]

_VERSION = 1
_KEPT = (
    "defaults", "base", "rule", "problem", "seed", "model", "memory", "steps", "passes", "sync", "scaler", "clip",
    "parallel", "trained", "_joined",
)  # fmt: skip


class SharpnessAware(Optimizer):
    """``SharpnessAware(base, rule)`` steps ``base`` along the direction that ``rule`` finds.

    Args:
        base: any ``torch.optim`` optimizer; its learning rate, momentum and weight decay apply to the rule's direction.
        rule: ``sam(rho)``, ``ssam_f(...)``, ``rst(...)``, any other rule, or its text.
        problem: the training data as a ``Problem``, for rules that look at more than the batch (the Fisher of
            ``ssam_f``).
        seed: of everything random in the rule (coins, masks, Fisher samples); all are functions of (seed, step).
        epoch: optimizer steps per epoch, the mask refresh of rules with ``every=None``; known from a problem that was
            made from a DataLoader.
        total: optimizer steps of the whole training, the horizon of schedules with ``total=None``.
        model: the module that the closure calls; names its parameters in ``masks()`` and has its buffers guarded.
            Without it names come from the problem, from ``named_parameters`` given to ``base``, or from the one module
            that the closure calls, and the modules are found by watching the first pass (torch warns of that for a
            compiled model: give it here).  Under DistributedDataParallel, the wrapped module: passes then run without
            its synchronisation, and one collective per step averages what the ranks found.
        sync: under DistributedDataParallel, whether ranks climb along one global gradient, as one process on the joint
            batch would (True, one collective per pass), or each along that of its own batch (False, m-sharpness).
            Rules that select examples select among each rank's own.
        scaler: the ``torch.amp.GradScaler`` by which the closure scales its loss; without it a scaled loss would be
            descended as it is.  The climb needs no unscaling; the direction is unscaled and checked before ``base``
            steps, and a step that overflows is skipped.  Call ``scaler.update()`` after ``step``.
        clip: largest norm of the final direction, after unscaling; None for no clipping.
        pieces: pieces of your own that a rule given as text may name; see ``parse``.

    ``step(closure)`` takes the closure that ``torch.optim.LBFGS`` takes: it clears the gradients, runs forward and
    backward and returns the loss.  The rule decides how often it runs.  Micro-batches are accumulated inside it, since
    every pass needs them all; gradients that wait from before the step and that it does not clear are refused.

    Attributes: ``rule`` with ``every`` and ``total`` filled in; ``base``; ``seed``; ``steps`` taken; ``passes``, the
    forward-backward pairs over the batch so far (a pass over some of its rows counts as their share, a forward pass
    alone as a third; the per-example gradients of a Fisher mask are not counted).

    Raises TypeError or ValueError (got, expected, remedy) for a base that is no optimizer, a rule that is none, and a
    rule that needs a problem, ``epoch`` or ``total`` that is not given.

    Example:
        >>> model = nn.Linear(2, 1)
        >>> optimizer = SharpnessAware(torch.optim.SGD(model.parameters(), lr=0.1), "sam(rho=0.05)")
        >>> def closure():
        ...     optimizer.zero_grad()
        ...     loss = model(torch.ones(4, 2)).square().mean()
        ...     loss.backward()
        ...     return loss
        >>> loss = optimizer.step(closure)
        >>> optimizer.passes
        2.0
    """

    def __init__(
        self,
        base: Optimizer,
        rule: Rule | str,
        problem: Problem | None = None,
        seed: int = 0,
        *,
        epoch: int | None = None,
        total: int | None = None,
        model: nn.Module | None = None,
        sync: bool = False,
        scaler: torch.amp.GradScaler | None = None,
        clip: float | None = None,
        pieces: Sequence[Callable[..., Any]] = (),
    ) -> None:
        check_base(base, SharpnessAware)
        check_options(problem, seed, epoch, total, model, sync, scaler, clip)
        check_groups(base.param_groups)
        check_model(base.param_groups, model)
        rule = as_rule(rule, pieces)
        if problem is None and any(getattr(piece, "needs_problem", False) for piece in parts(rule)):
            raise ValueError(
                f"{rule!r} asks for per-example gradients and got no problem, expected the data it trains on: "
                f"SharpnessAware(base, rule, problem=sharpscope.Problem(model, loss, data)), with a DataLoader as data "
                f"for epoch to be known too"
            )
        if epoch is None and problem is not None:
            epoch = problem.epoch
        self.base, self.rule = base, resolve(rule, epoch, total)
        self.problem, self.seed, self.model = problem, int(seed), model
        self.sync, self.scaler, self.clip = sync, scaler, clip
        self.parallel = self._distributed is not None
        self._joined = not self.parallel
        if sync and not self.parallel:
            raise ValueError(
                "SharpnessAware got sync=True without a DistributedDataParallel model, expected one: "
                "SharpnessAware(base, rule, model=ddp_model, sync=True)"
            )
        self._called: list[nn.Module] = []  # the modules that the last closure called
        self._way = Way()
        self.memory: Memory = {}
        self.trained: list[int] = []
        self.steps = 0
        self.passes = 0.0
        state, groups = base.state, base.param_groups
        super().__init__(groups, base.defaults)
        base.state, base.param_groups = state, groups

    @property
    def state(self) -> Any:
        """The base optimizer's state (one object, shared)."""
        return self.base.state

    @state.setter
    def state(self, value: Any) -> None:
        self.base.state = value

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The base optimizer's parameter groups (one object, shared)."""
        return self.base.param_groups

    @param_groups.setter
    def param_groups(self, value: list[dict[str, Any]]) -> None:
        self.base.param_groups = value

    @property
    def params(self) -> Vec:
        """The parameters that a rule works on: those of all groups that require a gradient, each once."""
        return [p for group in self.param_groups for p in group["params"] if p.requires_grad]

    @torch.enable_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step.  Returns what the closure returned at w.

        Raises TypeError without a closure or for one that returns None, ValueError for one that leaves no gradients;
        the weights, the buffers, the random states and the rule's memory are as before the step then, as after any
        exception, except for what ``base`` has changed already when it is its step that fails.
        """
        if not callable(closure):
            got = "no closure" if closure is None else f"a {type(closure).__name__}"
            raise TypeError(
                f"step() got {got}, expected a closure that clears the gradients, runs forward and backward and "
                f"returns the loss: optimizer.step(closure), as with torch.optim.LBFGS"
            )
        params = self.params
        trainable = self._trainable()
        self._join()
        if trainable != self.trained:  # what a rule remembers is of other parameters
            self.memory, self.trained = {}, trainable
        if not params:
            raise ValueError("step() got no parameter that requires a gradient, expected at least one: unfreeze one")
        probe = self._probe(params, closure)
        memory = restructured(self.memory)
        self._check_batch(closure)
        try:
            try:
                direction = self.rule(probe, self.memory)
            except Overflow as overflow:
                self.memory, direction = memory, overflow.gradient
            used = probe.used
            if self.parallel and not self.sync:
                direction, used = mean_with_flags(direction, used)
            if self._scaling and not bool(torch.isfinite(norm(direction))):
                self.memory = memory  # the step will be skipped: what the rule learnt in it is of no use
                probe.after.clear()
            for p, d, use in zip(params, direction, used, strict=True):
                p.grad = d if use else None
            self._descend(params)
            act_after(probe, self.param_groups)
        except BaseException:  # Ctrl-C too: a step that fails has not happened
            self.memory = memory
            probe.undo()
            raise
        probe.leave()
        self._called = probe.modules
        self.steps += 1
        self.passes += probe.passes
        return probe.loss

    def _probe(self, params: Vec, closure: Callable[[], Any]) -> Probe:
        return Probe(
            params,
            lambda modules: self._names(params, modules),
            closure=closure,
            step=self.steps,
            seed=self.seed,
            lr=float(self.param_groups[0]["lr"]) if "lr" in self.param_groups[0] else None,
            problem=self.problem,
            modules=[] if self.model is None else [self.model],
            way=self._way,
            scaled=self._scaling,
            quiet=contextlib.nullcontext if self._distributed is None else self._distributed.no_sync,
            share=self.sync if self.parallel else None,
            loss_scale=self.scaler.get_scale if self.scaler is not None and self._scaling else lambda: 1.0,
        )

    def _join(self) -> None:
        """Before passes together: that ranks will take the same ones, and rank 0's buffers for all, as torch has it."""
        if self._distributed is None:
            return
        if not self._joined:
            plan = mix("ranks", self.seed, self.steps, repr(self.rule), self._shapes(), int(self._scaling))
            if not same_on_all_ranks(plan, self.param_groups[0]["params"][0].device):
                raise ValueError(
                    "step() got ranks that differ in seed, step, rule, scaler or trainable parameters, expected the "
                    "same on all: build the optimizer, and load its state, alike on every rank"
                )
            self._joined = True
        self._distributed.require_forward_param_sync = True  # no_sync() alone would end the broadcast of buffers

    @property
    def _distributed(self) -> DistributedDataParallel | None:
        inner = getattr(self.model, "_orig_mod", self.model)  # of a compiled one
        return inner if isinstance(inner, DistributedDataParallel) else None

    def _descend(self, params: Vec) -> None:
        scaler = self.scaler if self._scaling else None
        if self.clip is not None:
            if scaler is not None:
                scaler.unscale_(self.base)
            torch.nn.utils.clip_grad_norm_(params, self.clip)
        if scaler is not None:
            scaler.step(self.base)
        else:
            self.base.step()

    def _check_batch(self, closure: Callable[[], Any]) -> None:
        if not isinstance(closure, Batch) or closure.scaler is self.scaler:
            return
        if self._scaling or (closure.scaler is not None and closure.scaler.is_enabled()):
            raise ValueError(
                "step() got a Batch with another scaler than the optimizer's, expected the same for both: "
                "Batch(model, loss, x, y, scaler=scaler)"
            )

    @property
    def _scaling(self) -> bool:
        return self.scaler is not None and self.scaler.is_enabled()

    def masks(self) -> dict[str, Tensor]:
        """The mask in force by parameter name, boolean; empty for a rule without a mask or before the first step.

        Of a mask within a mask, what both select.
        """
        found = list(packed_masks(self.memory))
        if not found or self.trained != self._trainable():
            return {}
        params = self.params
        bits = functools.reduce(torch.bitwise_and, found)
        return dict(zip(self._names(params, self._called), unpack(bits, params), strict=True))

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a parameter group to the base optimizer."""
        if self._constructed:
            self.base.add_param_group(param_group)
            try:
                check_groups(self.param_groups)
            except ValueError:
                self.param_groups.pop()
                raise

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients of all parameters."""
        self.base.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next steps depend on: the base optimizer's state and the rule's, the rule as text."""
        for before in self._optimizer_state_dict_pre_hooks.values():
            before(self)
        found = dict(self.base.state_dict())
        found["sharpscope"] = {
            "version": _VERSION,
            "base": type(self.base).__name__,
            "shapes": self._shapes(),
            "rule": repr(self.rule),
            "seed": self.seed,
            "steps": self.steps,
            "passes": self.passes,
            "memory": copied(self.memory),
        }
        for after in self._optimizer_state_dict_post_hooks.values():
            changed = after(self, found)
            found = found if changed is None else changed
        return found

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue where ``state_dict`` was taken.

        Raises ValueError for that of another rule, base optimizer, model or version; nothing is changed then.
        """
        for before in self._optimizer_load_state_dict_pre_hooks.values():
            changed = before(self, state_dict)
            state_dict = state_dict if changed is None else changed
        own = state_dict.get("sharpscope") if isinstance(state_dict, dict) else None
        if not isinstance(own, dict) or own.get("version") != _VERSION:
            got = "one of another optimizer" if not isinstance(own, dict) else f"version {own.get('version')!r}"
            raise ValueError(
                f"load_state_dict got {got}, expected a state_dict of SharpnessAware, version {_VERSION}: "
                f"save it with optimizer.state_dict()"
            )
        if own["rule"] != repr(self.rule):
            raise ValueError(
                f"load_state_dict got the rule {own['rule']}, expected {self.rule!r}: "
                f"build the optimizer with the rule that was saved"
            )
        if own["base"] != type(self.base).__name__:
            raise ValueError(
                f"load_state_dict got the state of {own['base']}, expected {type(self.base).__name__}: "
                f"build the optimizer around the base that was saved"
            )
        if own["shapes"] != self._shapes():
            raise ValueError(
                f"load_state_dict got trainable parameters (place:shape) {_brief(own['shapes'])}, expected "
                f"{_brief(self._shapes())}: build the model that was saved, with the same parameters trainable"
            )
        self.base.load_state_dict({name: value for name, value in state_dict.items() if name != "sharpscope"})
        self.seed, self.steps, self.passes = int(own["seed"]), int(own["steps"]), float(own["passes"])
        device = next((p.device for p in self.params), None)
        self.memory, self.trained, self._joined = copied(own["memory"], device), self._trainable(), not self.parallel
        for after in self._optimizer_load_state_dict_post_hooks.values():
            after(self)

    def __getstate__(self) -> dict[str, Any]:
        return {name: self.__dict__[name] for name in _KEPT}  # what copy.deepcopy and pickle take along

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._way, self._called = Way(), []

    def __repr__(self) -> str:
        return f"SharpnessAware({self.base!r},\nrule={self.rule!r}, seed={self.seed}, steps={self.steps})"

    @property
    def _constructed(self) -> bool:
        return "memory" in self.__dict__ and hasattr(self, "_zero_grad_profile_name")

    def _names(self, params: Vec, called: Sequence[nn.Module]) -> tuple[str, ...]:
        """From where they are known; the place among ``params`` where they are not."""
        known: dict[int, str] = {}
        for group in self.param_groups:
            known.update({id(p): name for p, name in zip(group["params"], group.get("param_names", ()), strict=False)})
        models = [module for module in called if next(module.parameters(), None) is not None]  # a loss has none
        models = models if len(models) == 1 else []
        models += [] if self.problem is None else [self.problem.model]
        for model in (*models, *([] if self.model is None else [self.model])):
            known.update({id(p): name for name, p in _bare(model).named_parameters()})
        return tuple(known.get(id(p), str(place)) for place, p in enumerate(params))

    def _trainable(self) -> list[int]:
        flags = [p.requires_grad for group in self.param_groups for p in group["params"]]
        return [place for place, flag in enumerate(flags) if flag]

    def _shapes(self) -> str:
        shapes = ("x".join(map(str, p.shape)) or "1" for p in self.params)
        return " ".join(f"{place}:{shape}" for place, shape in zip(self._trainable(), shapes, strict=True))


def _bare(model: nn.Module) -> nn.Module:
    """The model inside DistributedDataParallel and ``torch.compile``, whose names have no prefix."""
    if isinstance(model, DistributedDataParallel):
        return _bare(model.module)
    inner = getattr(model, "_orig_mod", None)
    return _bare(inner) if isinstance(inner, nn.Module) else model


def _brief(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."
