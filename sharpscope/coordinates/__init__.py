"""Which coordinates of the weights: masks as bits, name patterns, layers.

Enters: scores, masks in any form, patterns. Leaves: booleans per entry or packed bits, exactly as many as were asked
for. What a mask means for training is in ``ascent``, what it selects in ``analyzers.masks``. Never imports a problem.

Public: PackedMask.
"""
