"""Hessian, GGN and Fisher as symmetric operators known by their products.

Enters: a Problem and weights. ``products`` has one way of differentiating a batch per function; a preflight compares
them with finite differences and takes the fastest correct one; sums over data and tapes make them cheap. Leaves: an
Operator, ``op @ v``. Never imports analyzers: an operator does not know what is asked of it.

Public: Operator, hessian, ggn, fisher.
"""
