"""What every room speaks: vectors over parameters, printable expressions, schedules, the base of all results.

Enters: tensors, numbers, texts. Leaves: vectors (one tensor per parameter), pieces whose repr builds them again,
frozen results with names and units. Two results that no analyzer makes live here too, because store, pictures and
theorems share them: History (of a training) and Convergence (of a theorem). Never imports another room.

Public: Result, History, Steps, Convergence, Schedule, Constant, Cosine, Decay, InverseSqrt, Linear, Piecewise,
Proportional, Sine, Warmup, delta_eta.
"""
