"""Single numbers of sharpness: worst case in a ball, average under noise, adaptive, per batch.

Enters: a problem and a radius. Leaves: Sharpness. Never imports the other analyzers.

Public: sharpness, Sharpness.
"""
