"""Trainers of other libraries that call ``step`` in their own way, one module for each; an extra of the package each.

Enters: another library's trainer or module class. Leaves: a subclass of it whose step is the rule's step. Importing a
module here imports its library; ``import sharpscope`` imports none. ``docs/trainers.md`` has the recipes, of those that
need no code too (accelerate, skorch). Never imports analyzers, never imports the store.

Public: SharpnessAwareModule, SharpnessAwareTrainer.
"""
