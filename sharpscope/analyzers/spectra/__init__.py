"""Eigenvalues, spectral densities and traces, each with what is certified about it.

Enters: an operator, or a problem whose Hessian is meant. Leaves: Spectrum, Density, Trace, Curvature (by layer or
mask), Track (along training), CrossCheck (against other libraries). Never imports the other analyzers.

Public: spectrum, Spectrum, density, Density, trace, Trace, curvature, Curvature, track, Track, cross_check,
CrossCheck.
"""
