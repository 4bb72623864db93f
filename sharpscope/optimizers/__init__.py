"""Training rules as expressions, the methods by name, and the one optimizer that performs them.

Enters: a torch optimizer, a rule or its text, a closure. Leaves: a step. ``rules`` are pure given their memory,
``methods`` are aliases with equations and references, ``sharpness_aware`` alone touches parameters. Never imports
analyzers.

Public: SharpnessAware, Rule, Plain, Ascend, Blend, Surrogate, Reuse, Sometimes, Sharpest, Decoupled, AlongMomentum,
Functional, Bayesian, CentralisedDescent, sgd, sam, asam, ssam_f, ssam_d, gsam, looksam, esam, gnr, rst, grst, fsam,
wsam, bsam, gcsam, msam, tail, functional_sam, parse, RuleError.
"""
