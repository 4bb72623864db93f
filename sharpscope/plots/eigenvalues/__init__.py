"""Pictures of spectra, densities, traces, curvature by layer and along training.

Enters: results of ``analyzers.spectra``. Leaves: axes. Never imports what computes.

Public: draw_spectrum, draw_spectral_density, draw_curvature, draw_trace, draw_track.
"""
