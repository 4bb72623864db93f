"""The methods by the names that people know, each an expression of rules, perturbations, masks and schedules.

A rule goes around any torch optimizer: ``SharpnessAware(torch.optim.SGD(model.parameters(), lr=0.1), sam(rho=0.1))``.
Wherever a number is asked for that may change over training, a schedule will do.
"""

from __future__ import annotations

from sharpscope.ascent.climbs import Centralised, Residual
from sharpscope.ascent.masks import Evolving, RandomTensors, Top
from sharpscope.ascent.perturbations import Ball, Magnitude, Masked
from sharpscope.ascent.scores import Fisher
from sharpscope.core.expressions import check_range
from sharpscope.core.schedules import Decay, Number, Piecewise, Schedule
from sharpscope.optimizers.established import AlongMomentum, Bayesian, CentralisedDescent, Decoupled, Functional
from sharpscope.optimizers.rules import Ascend, Blend, Plain, Reuse, Rule, Sharpest, Sometimes, Surrogate

__all__ = [
    *[
        "asam",
        "bsam",
        "esam",
        "fsam",
        "functional_sam",
        "gcsam",
        "gnr",
        "grst",
        "gsam",
        "looksam",
        "msam",
        "rst",
        "sam",
    ],
    *["sgd", "ssam_d", "ssam_f", "tail", "wsam"],
]


def sgd() -> Rule:
    """w <- base(g): the base optimizer as it is, whichever it is.

    Example:
        >>> sgd()
        Plain()
    """
    return Plain()


def sam(rho: Number = 0.05) -> Rule:
    """g(w + eps), eps = rho g / |g|.

    Defaults: rho = 0.05 (Foret et al. 2021, "Sharpness-aware minimization for efficiently improving generalization",
    eq. 2 and 3); Sparse SAM uses 0.1 for CIFAR-10, 0.2 for CIFAR-100, 0.07 for ImageNet.  Departures: none; weight
    decay is the base optimizer's and no part of eps.

    Example:
        >>> sam(rho=0.1)
        Ascend(Ball(0.1))
    """
    return Ascend(Ball(rho))


def asam(rho: Number = 0.5, eta: float = 0.01, scaled: str = "*weight*") -> Rule:
    """g(w + eps), eps = rho T^2 g / |T g|, T = |w| + eta.

    Defaults: rho = 0.5, eta = 0.01 (Kwon et al. 2021, "ASAM", eq. 7).  Departures: T = |w| + eta for the parameters
    whose name matches ``scaled`` and 1 for the others, biases that is, as in the authors' code, which the paper does
    not say; ``scaled="*"`` with eta = 0 is the variant of davda54/sam, for which rho = 2 is usual.

    Example:
        >>> asam(rho=0.5, eta=0.01)
        Ascend(Ball(0.5, metric=Magnitude(0.01, scaled='*weight*')))
    """
    return Ascend(Ball(rho, Magnitude(eta, scaled)))


def ssam_f(rho: Number = 0.1, sparsity: float = 0.5, samples: int = 128, every: int | None = None) -> Rule:
    """g(w + eps m), eps = rho g / |g|, m = 1 at the round((1 - s) d) largest entries of the empirical Fisher diagonal.

    Needs the training data, ``SharpnessAware(..., problem=Problem(model, loss, loader))``; a refresh every epoch
    (``every=None``) is known from the loader, or from ``epoch=STEPS``.

    Defaults: rho = 0.1 and 50 % sparsity (Mi et al. 2022, "Sparse SAM", Algorithms 1 and 2, Option I, eq. 5 and 6), N_F
    = 128 samples (their ImageNet value; 16 on CIFAR), a refresh every epoch (T_m = 1).  Departures: the first mask is a
    Fisher mask, a refreshed mask is used at once, and the Fisher uses eval-mode BatchNorm and un-augmented examples.
    Its gradients are not counted in ``passes``.

    Example:
        >>> ssam_f(rho=0.1, sparsity=0.5, every=400)
        Ascend(Masked(Ball(0.1), mask=Top(Fisher(128), sparsity=0.5, every=400)))
    """
    return Ascend(Masked(Ball(rho), Top(Fisher(samples), sparsity, every)))


def ssam_d(
    rho: Number = 0.1, sparsity: float = 0.5, drop: Number = 0.5, every: int | None = None, total: int | None = None
) -> Rule:
    """g(w + eps m), eps = rho g / |g|, m evolving: drop the smallest |g|, grow random entries.

    Needs ``every=`` and ``total=`` here, or ``SharpnessAware(..., epoch=STEPS, total=STEPS)``.

    Defaults: rho = 0.1 and 50 % sparsity (Mi et al. 2022, "Sparse SAM", Algorithm 2, Option II, eq. 7 to 9); the
    initial drop rate, which the paper does not state, is 0.5 as in its code and decays as a half cosine over ``total``
    steps; a refresh every epoch.  Departures: see ``Evolving``, which also has the ablations of the paper's Table 7.  A
    schedule given as ``drop`` is used as it is.

    Example:
        >>> ssam_d(rho=0.1, sparsity=0.5, every=400, total=80_000)
        Ascend(Masked(Ball(0.1), mask=Evolving(0.5, drop=Decay(0.5, total=80000), every=400)))
    """
    rate = drop if isinstance(drop, Schedule) else Decay(drop, total)
    return Ascend(Masked(Ball(rho), Evolving(sparsity, rate, every)))


def gsam(rho: Number = 0.05, alpha: Number = 0.4) -> Rule:
    """g_s - alpha g_orthogonal, g_s = g(w + eps), g_orthogonal the part of g orthogonal to g_s.

    Defaults: alpha = 0.4 (Zhuang et al. 2022, "Surrogate gap minimization improves sharpness-aware training", Algorithm
    1); rho may follow the learning rate: ``gsam(rho=Proportional(low, high, lr_low, lr_high))``.  Departures: none.

    Example:
        >>> gsam(rho=0.05, alpha=0.4)
        Surrogate(Ascend(Ball(0.05)), alpha=0.4)
    """
    return Surrogate(sam(rho), alpha)


def looksam(rho: Number = 0.1, every: int = 5, alpha: Number = 0.7, projection: str = "tensor") -> Rule:
    """SAM every k steps; in between g + alpha |g| / |v| v with the v, orthogonal to g, that SAM's last gradient left.

    Defaults: k = 5, alpha = 0.7 (Liu et al. 2022, "Towards efficient and scalable sharpness-aware minimization",
    Algorithm 1).  Departure: norms and angles per tensor, as in the public codes; ``projection="global"`` for whole
    vectors.

    Example:
        >>> looksam(rho=0.1, every=5)
        Reuse(Ascend(Ball(0.1)), every=5, alpha=0.7, projection='tensor')
    """
    return Reuse(sam(rho), every, alpha, projection)


def esam(rho: Number = 0.05, keep: float = 0.5, fraction: float = 0.5) -> Rule:
    """Climb along a random share ``keep`` of the tensors, descend on the ``fraction`` of the batch that rose most.

    Defaults: keep = fraction = 0.5 (Du et al. 2022, "Efficient sharpness-aware minimization", Algorithm 1).
    Departures: the norm is that of the full gradient and eps is not divided by ``keep``, so |eps| <= rho.  In
    data-parallel training every process selects among its own examples, with ``sync=True`` too.

    With ``fraction < 1`` the closure is ``sharpscope.Batch(model, loss, x, y)``, which can restrict itself to examples.

    Example:
        >>> esam(rho=0.05, keep=0.6, fraction=0.5)
        Ascend(Masked(Ball(0.05), mask=RandomTensors(0.6, every=1)), select=Sharpest(0.5))
    """
    return Ascend(Masked(Ball(rho), RandomTensors(keep)), Sharpest(fraction))


def gnr(rho: Number = 0.1, weight: Number = 0.8) -> Rule:
    """(1 - a) g + a g(w + eps), a = weight = gamma / rho.

    Defaults: a = 0.8, rho = 0.1 (Zhao et al. 2022, "Penalizing gradient norm", eq. 9 and their CIFAR recipes).
    Departures: none.

    Example:
        >>> gnr(rho=0.1, weight=0.8)
        Blend(Ascend(Ball(0.1)), weight=0.8)
    """
    return Blend(sam(rho), weight)


def rst(rule: Rule, p: Number = 0.5) -> Rule:
    """The rule with probability p(t), plain descent otherwise.

    Defaults: p = 0.5 (Zhao et al. 2023, "Randomized sharpness-aware training", Algorithm 1 and the constant schedule of
    its tables); p may be any schedule of its section 4.  Departures: none.  Expected cost 1 + p(t) forward-backward
    pairs a step; ``delta_eta(p, steps)`` is the mean of p.  A mask that is due for renewal is renewed at the next step
    that climbs.

    Example:
        >>> rst(sam(rho=0.1), p=0.5)
        Sometimes(Ascend(Ball(0.1)), p=0.5)
    """
    return Sometimes(rule, p)


def grst(rule: Rule, p: Number = 0.5, weight: Number = 2.0) -> Rule:
    """(1 - a) g + a d of the rule with probability p(t), plain descent otherwise; a = weight may exceed 1.

    Defaults: p = 0.5, a = gamma / rho = 2, which keeps the expected penalty at that of the rule itself (Zhao et al.
    2023, section 5, gamma_rst = p gamma_gnr).  Departures: none.

    Example:
        >>> grst(sam(rho=0.1), p=0.5, weight=2.0)
        Sometimes(Blend(Ascend(Ball(0.1)), weight=2.0), p=0.5)
    """
    return Sometimes(Blend(rule, weight), p)


def fsam(rho: Number = 0.05, sigma: Number = 1.0, decay: float = 0.9) -> Rule:
    """g(w + eps), eps = rho d / |d|, d = g - sigma m, m <- decay m + (1 - decay) g: climb along the batch's noise.

    Defaults: sigma = 1 (Li et al. 2024, "Friendly sharpness-aware minimization", eq. 7 and Algorithm 1), rho = 0.05 and
    decay = 0.9 (lambda) as in the authors' code.  Departure: m is the average up to the step before and begins with the
    first gradient, along which the first step climbs, as in the authors' code; the paper's holds this step's gradient
    too, which for sigma = 1 only shortens d and leaves eps as it is.

    Example:
        >>> fsam(rho=0.1)
        Ascend(Residual(Ball(0.1), sigma=1.0, decay=0.9))
    """
    return Ascend(Residual(Ball(rho), sigma, decay))


def wsam(rho: Number = 0.05, gamma: float = 0.9, decoupled: bool = True) -> Rule:
    """base(g), then w <- w - lr a (g(w + eps) - g), a = gamma / (1 - gamma), eps = rho g / |g|.

    Defaults: gamma = 0.9, rho = 0.05, decoupled (Yue et al. 2023, "Sharpness-aware minimization revisited: weighted
    sharpness as a regularization term", Algorithm 1, and the authors' code).  ``decoupled=False`` hands ``base`` the
    weighted gradient (1 - a) g + a g(w + eps), which is ``gnr`` with weight = a.  Departure: the gradients are not
    clipped one by one; ``clip`` acts on what ``base`` descends along.

    Example:
        >>> wsam(rho=0.05, gamma=0.5)
        Decoupled(Ascend(Ball(0.05)), weight=1.0)
    """
    check_range("wsam", "gamma", gamma, 0, 1, open_high=True)
    weight = gamma / (1.0 - gamma)
    return Decoupled(sam(rho), weight) if decoupled else Blend(sam(rho), weight)


def bsam(
    examples: int,
    rho: Number = 0.01,
    beta1: float = 0.9,
    beta2: float = 0.999,
    decay: float = 1e-4,
    damping: float = 0.1,
) -> Rule:
    """w <- w - lr m / s: SAM as a relaxation of Bayes, s the precision of every weight over ``examples``.

    Its equations are those of ``Bayesian``.  ``base`` is ``torch.optim.SGD(lr)``, without momentum or weight decay,
    which are in m; lr = 0.5 in the paper's CIFAR trainings.

    Defaults: rho = 0.01, beta_1 = 0.9, beta_2 = 0.999, damping gamma = 0.1 (Moellenhoff and Khan 2023, "SAM as an
    optimal relaxation of Bayes", Algorithm 1, and the authors' code for CIFAR); the prior's decay delta is its
    precision (10 to 25 there) over ``examples``.  Departures: none; the authors' code divides m by
    the s of the step before, and has sub-batches, which here are the processes of data-parallel training.

    Example:
        >>> bsam(examples=50_000)
        Bayesian(50000, rho=0.01, beta1=0.9, beta2=0.999, decay=0.0001, damping=0.1)
    """
    return Bayesian(examples, rho, beta1, beta2, decay, damping)


def gcsam(rho: Number = 0.05, descent: bool = False) -> Rule:
    """g(w + eps), eps = rho c / |c|, c = g with the mean of every unit's or filter's weights taken off.

    Defaults: rho = 0.05 (Hassan et al. 2025, "GCSAM: gradient centralized sharpness aware minimization", which
    normalises gradients before the ascent; Yong et al. 2020 for the slices).  Departures: none;
    ``descent=True`` centralises the gradient at w + eps as well.

    Example:
        >>> gcsam(rho=0.1)
        Ascend(Centralised(Ball(0.1)))
    """
    rule = Ascend(Centralised(Ball(rho)))
    return CentralisedDescent(rule) if descent else rule


def msam(rho: Number = 0.3, decay: float = 0.9) -> Rule:
    """g(w - rho v / |v|), v <- decay v + that gradient: SAM at the cost of one pass a step.

    ``base`` is ``torch.optim.SGD(lr, momentum=decay)``, whose momentum is then v.

    Defaults: rho = 0.3, decay = 0.9 (Becker et al. 2024, "Momentum-SAM: sharpness aware minimization without
    computational overhead", Algorithm 1, and the authors' code).  Departures: between steps the weights are w, not the
    perturbed ones; v is kept here, one more vector in memory, so that any base will do, and holds no weight decay.

    Example:
        >>> msam()
        AlongMomentum(0.3, decay=0.9)
    """
    return AlongMomentum(rho, decay)


def tail(rule: Rule, share: float = 0.125, total: int | None = None) -> Rule:
    """Plain descent, and the rule in the last ``share`` of the training alone.

    Needs ``total=`` here, or ``SharpnessAware(..., total=STEPS)``.

    Defaults: share = 0.125, SAM in the last 25 of 200 epochs (Zhou et al. 2025, "Sharpness-aware minimization
    efficiently selects flatter minima late in training", figure 1).  Departures: none.

    Example:
        >>> tail(sam(rho=0.1), share=0.125)
        Sometimes(Ascend(Ball(0.1)), p=Piecewise(0.0, at=0.875))
    """
    check_range("tail", "share", share, 0, 1)
    return Sometimes(rule, Piecewise(0.0, 1.0 - share, total))


def functional_sam(rho: Number = 0.05) -> Rule:
    """J(w + eps)^T l'(f(w)), eps = rho g / |g|: the network's Jacobian is taken at w + eps, the loss's slope at w.

    What it leaves out of SAM's gradient is the change of the outputs, which lowers sharpness by smaller logits alone.
    The closure is ``sharpscope.Batch(model, loss, x, y)``.

    Defaults: rho = 0.05 (Foret et al. 2021), as the paper's are those of its language models (Singh et al. 2025,
    "Avoiding spurious sharpness minimization broadens applicability of SAM", Functional SAM).  Departures: none; its
    preconditioned variant is not here.

    Example:
        >>> functional_sam(rho=0.1)
        Functional(Ball(0.1))
    """
    return Functional(Ball(rho))
