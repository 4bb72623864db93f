"""Where a mask lives, and whether it selects the sharp parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from sharpscope.core.results import Dims, Result

__all__ = ["GROUPS", "HESSIAN", "MaskProfile"]

GROUPS = ("layer", "kind", "depth", "channel")
HESSIAN = "Hessian diagonal"
CONFIDENCE = 0.95


@dataclass(frozen=True, eq=False, repr=False)
class MaskProfile(Result):
    """Where a mask has its ones, and how they sit among scores of the parameters; ``mask_profile`` makes it.

    A random mask always means one of as many ones placed anywhere, of which mean and deviation are exact.
    """

    dims: ClassVar[Dims] = {
        "auc auc_deviation correlation captured captured_chance captured_deviation captured_best defined": "scores",
        "layer_auc": "scores layers",
        "sizes selected depths kinds channels": "layers",
    }

    layers: tuple[str, ...]  # (L,) parameter names
    kinds: tuple[str, ...]  # (L,) what they are: conv, linear, norm, bias, embedding, ...
    depths: np.ndarray  # (L,) int64, place of the parameter's module in the model
    sizes: np.ndarray  # (L,) int64, entries
    selected: np.ndarray  # (L,) int64, ones
    channels: np.ndarray  # (L,) int64, output channels: slices along dim 0
    channel_selected: np.ndarray  # (sum of channels,) int64, ones per output channel, layer after layer
    scores: tuple[str, ...]  # (s,) names
    defined: np.ndarray  # (s,) int64, entries that have a score: r has none where g_SGD = 0
    correlation: np.ndarray  # (s,) Spearman's rank correlation of mask and score
    auc: np.ndarray  # (s,) area under the ROC curve: chance that a selected entry has the larger score
    auc_deviation: np.ndarray  # (s,) standard deviation of the area over random masks (their mean is 0.5)
    layer_auc: np.ndarray  # (s, L) the area within each layer; nan where the layer is all ones or all zeros
    curves: np.ndarray  # (s, 101) ROC curves: true-positive rates at the false-positive rates 0, 0.01, ..., 1
    captured: np.ndarray  # (s,) share of the score's total that the mask holds; nan for r, a logarithm
    captured_chance: np.ndarray  # (s,) mean of the share over random masks
    captured_deviation: np.ndarray  # (s,) its standard deviation over random masks
    captured_best: np.ndarray  # (s,) the largest share that as many ones can hold; nan for signed scores
    trace: float  # trace of the Hessian, loss per squared unit of weight
    trace_error: float  # standard error over the probes
    trace_share: float  # trace of the masked block / trace
    trace_share_error: float  # standard error over the probes
    top: float  # lambda_1 of the Hessian
    top_error: float  # its residual
    block_top: float  # lambda_1 of the masked block
    block_top_error: float  # its residual
    random_tops: np.ndarray  # (draws,) lambda_1 of the blocks of random masks
    probes: int  # vectors behind trace and diagonal
    perturbation: str  # behind r
    seed: int  # of probes, random masks, starting vectors
    problem: str  # loss, examples, mode, dtype in words

    @property
    def density(self) -> float:
        """Share of ones."""
        return _share(int(self.selected.sum()), int(self.sizes.sum()))

    @property
    def layer_density(self) -> np.ndarray:
        """(L,): share of ones per layer."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(self.selected / self.sizes)

    @property
    def auc_z(self) -> np.ndarray:
        """(s,): area minus 0.5, in standard deviations of random masks."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray((self.auc - 0.5) / self.auc_deviation)

    @property
    def captured_z(self) -> np.ndarray:
        """(s,): captured share minus that of random masks, in their standard deviations."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray((self.captured - self.captured_chance) / self.captured_deviation)

    @property
    def top_share(self) -> float:
        """lambda_1 of the masked block / lambda_1 of the Hessian."""
        return self.block_top / self.top if self.top else float("nan")

    @property
    def random_top_share(self) -> float:
        """The same for random masks, mean over the draws; nan without draws."""
        return float(self.random_tops.mean()) / self.top if len(self.random_tops) and self.top else float("nan")

    def enrichment(self, by: str = "layer") -> dict[str, Any]:
        """Density over the global density, of every "layer", "kind", "depth" or output "channel", as columns.

        ``name`` (k,) texts; ``size`` and ``selected`` (k,); ``density``, ``enrichment``; ``low`` and ``high``, Wilson's
        95 % interval (1927) of the enrichment, as if entries were drawn one by one; ``chance_low`` and ``chance_high``,
        between which the enrichment of 95 % of random masks lies (hypergeometric); ``z``, the number of ones minus that
        of random masks in their standard deviations.  Raises ValueError for another ``by``.
        """
        names, sizes, selected = self._groups(by)
        total, ones = int(self.sizes.sum()), int(self.selected.sum())
        with np.errstate(divide="ignore", invalid="ignore"):
            density = selected / sizes
            low, high = _wilson(selected, sizes)
            chance_low, chance_high = (ends / sizes / self.density for ends in _hypergeometric(total, ones, sizes))
            mean = sizes * self.density
            deviation = np.sqrt(mean * (1.0 - self.density) * (total - sizes) / max(total - 1, 1))
            return {
                "name": list(names),
                "size": sizes,
                "selected": selected,
                "density": density,
                "enrichment": density / self.density,
                "low": low / self.density,
                "high": high / self.density,
                "chance_low": chance_low,
                "chance_high": chance_high,
                "z": (selected - mean) / deviation,
            }

    def answer(self) -> str:
        """Does this mask select the sharp parameters?  One sentence, by the trace of the Hessian inside the mask.

        Yes where the mask holds more of the trace than random masks do, by two standard deviations of those and of the
        estimate together; lambda_1 of the block is told and does not decide.  Not known where the trace is not clearly
        positive.
        """
        if not 0.0 < self.density < 1.0:
            return f"nothing to compare: the mask selects {'all' if self.density else 'none'} of the entries"
        if np.isnan(self.trace):
            return "not known: the profile was made without curvature"
        if not self._has_shares:
            return (
                f"not known: trace(H) = {self.trace:.3g} +- {self.trace_error:.2g} is not positive, so that it has no "
                f"shares{self._of_the_top('; the mask holds ')}"
            )
        error = self.trace_share_error
        spread = float(np.hypot(error, np.nan_to_num(self.captured_deviation[self.scores.index(HESSIAN)])))
        excess = self.trace_share - self.density
        verdict = (
            "yes" if excess > 2.0 * spread else "no, the flat ones" if excess < -2.0 * spread else "no more than chance"
        )
        return (
            f"{verdict}: {100 * self.density:.3g} % of the entries hold {100 * self.trace_share:.3g}"
            + (f" +- {100 * error:.2g}" if error else "")
            + f" % of trace(H){self._of_the_top(' and ')}"
        )

    @property
    def _has_shares(self) -> bool:
        """Whether the trace is clearly positive: a share of anything else compares nothing."""
        return bool(self.trace > 2.0 * self.trace_error)

    def _of_the_top(self, before: str) -> str:
        if not self.top > 0.0:
            return ""
        count = len(self.random_tops)
        drawn = f" (mean of {count} random mask{'s' if count > 1 else ''}: {100 * self.random_top_share:.3g} %)"
        return f"{before}{100 * self.top_share:.3g} % of lambda_1{drawn if count else ''}"

    def table(self, style: str = "github") -> str:
        """The whole profile against random masks, as text; ``style`` is any table format of tabulate."""
        rows = [["entries selected", _percent(self.density), "", "", ""]]
        for i, name in enumerate(self.scores):
            chance = f"0.500 +- {self.auc_deviation[i]:.1g}" if np.isfinite(self.auc[i]) else ""
            noisy = name == HESSIAN and self.probes < self.sizes.sum()
            text = f"{name} ({self.probes} probes)" if noisy else name
            rows.append([f"ROC area, {text}", _plain(self.auc[i]), chance, "1", _z(self.auc_z[i])])
        for i, name in enumerate(self.scores):
            if np.isfinite(self.captured[i]) and name != HESSIAN:  # its total is the trace
                chance = f"{_percent(self.captured_chance[i])} +- {100 * self.captured_deviation[i]:.1g}"
                best = _percent(self.captured_best[i])
                rows.append(
                    [f"share of total, {name}", _percent(self.captured[i]), chance, best, _z(self.captured_z[i])]
                )
        if self._has_shares:
            mine = f"{_percent(self.trace_share)} +- {100 * self.trace_share_error:.1g}"
            where = self.scores.index(HESSIAN)
            chance = f"{_percent(self.density)} +- {100 * self.captured_deviation[where]:.1g}"
            rows.append(["share of trace(H)", mine, chance, "", _z(self.captured_z[where])])
        if self.top > 0.0:
            rows.append(
                ["lambda_1 of the block / lambda_1", _percent(self.top_share), _percent(self.random_top_share), "", ""]
            )
        head = ["quantity", "this mask", "random mask", "best possible", "z"]
        from tabulate import tabulate  # only here, as are all tables

        return tabulate(rows, head, tablefmt=style, disable_numparse=True, colalign=("left", *["right"] * 4))

    def summary(self) -> str:
        """One line: the density and the answer."""
        return f"MaskProfile(density={self.density:.6g}; selects the sharp parameters? {self.answer()})"

    def tidy(self) -> dict[str, Any]:
        """One row per scope ("all", "layer", "kind", "depth"), name and quantity."""
        rows: list[tuple[str, str, str, float]] = []
        for name in (
            "density",
            "trace",
            "trace_error",
            "trace_share",
            "trace_share_error",
            "top",
            "top_error",
            "block_top",
        ):
            rows.append(("all", "", name, float(getattr(self, name))))
        for i, score in enumerate(self.scores):
            for name in ("correlation", "auc", "auc_deviation", "captured", "captured_chance", "captured_best"):
                rows.append(("all", "", f"{name} {score}", float(getattr(self, name)[i])))
            rows += [
                ("layer", layer, f"auc {score}", float(value))
                for layer, value in zip(self.layers, self.layer_auc[i], strict=True)
            ]
        for scope in ("layer", "kind", "depth"):
            found = self.enrichment(scope)
            rows += [
                (scope, name, quantity, float(found[quantity][i]))
                for i, name in enumerate(found["name"])
                for quantity in found
                if quantity != "name"
            ]
        columns = [list(column) for column in zip(*rows, strict=True)]
        return dict(zip(("scope", "name", "quantity", "value"), columns, strict=True))

    def _repr_html_(self) -> str:
        return super()._repr_html_() + self.table("html")

    def _groups(self, by: str) -> tuple[list[str], np.ndarray, np.ndarray]:
        if by not in GROUPS:
            raise ValueError(f"the enrichment got by={by!r}, expected one of {', '.join(map(repr, GROUPS))}: change by")
        if by == "layer":
            return list(self.layers), self.sizes, self.selected
        if by == "channel":
            names = [
                f"{name}[{i}]" for name, count in zip(self.layers, self.channels, strict=True) for i in range(count)
            ]
            with np.errstate(divide="ignore", invalid="ignore"):
                width = np.where(self.channels > 0, self.sizes // np.maximum(self.channels, 1), 0)
            return names, np.repeat(width, self.channels), self.channel_selected
        labels = np.array(self.kinds if by == "kind" else [str(depth) for depth in self.depths], dtype=object)
        groups = list(dict.fromkeys(labels.tolist()))
        sums = [[int(values[labels == name].sum()) for name in groups] for values in (self.sizes, self.selected)]
        return groups, np.array(sums[0], dtype=np.int64), np.array(sums[1], dtype=np.int64)


def _wilson(ones: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Wilson's score interval of a share."""
    z = 1.959963984540054  # of 95 %
    share = ones / sizes
    middle = (share + z**2 / (2 * sizes)) / (1 + z**2 / sizes)
    half = z / (1 + z**2 / sizes) * np.sqrt(share * (1 - share) / sizes + z**2 / (4.0 * sizes**2))
    return np.clip(middle - half, 0.0, 1.0), np.clip(middle + half, 0.0, 1.0)


def _hypergeometric(total: int, ones: int, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ends between which the ones of a random mask in groups of these sizes lie in 95 % of the cases."""
    from scipy.stats import hypergeom  # half a second to import

    distinct, back = np.unique(sizes, return_inverse=True)
    ends = hypergeom.interval(CONFIDENCE, total, ones, distinct)
    return np.asarray(ends[0])[back], np.asarray(ends[1])[back]


def _share(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")


def _percent(value: float) -> str:
    return "" if np.isnan(value) else f"{100 * value:.1f} %"


def _plain(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.3f}"


def _z(value: float) -> str:
    return "" if np.isnan(value) else f"{value:+.1f}"
