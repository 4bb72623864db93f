"""What a rule does once the base optimizer has stepped."""

from __future__ import annotations

from typing import Any

import torch

from sharpscope.ascent.probe import Probe

__all__ = ["act_after"]


@torch.no_grad()
def act_after(probe: Probe, groups: list[dict[str, Any]]) -> None:
    """Perform what rules have asked for with ``probe.afterwards``, in their order."""
    if not probe.after:
        return
    rates = {id(p): float(group["lr"]) for group in groups for p in group["params"]}
    weights = [p.detach() for p in probe.params]
    for act in probe.after:
        act(weights, [rates[id(p)] for p in probe.params])
