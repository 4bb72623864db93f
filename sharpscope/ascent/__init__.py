"""What a training rule climbs with: the probe of a batch, perturbations, masks, scores.

Enters: the gradient of a step, and a closure that may be run again at w + eps. Leaves: eps, a direction, a mask. The
SSAM masks are ``masks`` (Top, Evolving) over ``scores``. Never imports rules: a piece does not know its user.

Public: Batch, Probe, Shift, Perturbation, Metric, Ball, Magnitude, Masked, Residual, Centralised, Mask, Top, Evolving,
Named, RandomMask, RandomTensors, Score, Fisher, Gradient, Random, Weight.
"""
