"""The theorems of both papers as bounds beside measurements on problems with known constants.

Enters: a rule and a problem whose constants are known. Leaves: Convergence. Never imports pictures or files: the
recipes draw and keep.

Public: none; ``sharpscope reproduce ssam-theorem rst-theorem`` calls it.
"""
