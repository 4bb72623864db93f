"""The function L(w): a model, a loss and data, evaluated at any weights without touching the model.

Enters: the user's module, loss, and data in any form. Leaves: losses, gradients, outputs of examples and batches;
``evaluator`` is the fast forward pass that planes use. Never imports curvature, rules or analyzers.

Public: Problem, ProblemError, function.
"""
