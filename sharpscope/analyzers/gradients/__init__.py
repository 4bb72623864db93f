"""How SAM's gradient differs from SGD's, coordinate by coordinate: the ratio r.

Enters: a problem or a batch, and a perturbation. Leaves: GradientRatio, RatioSeries. Never imports spectra or
surfaces.

Public: gradient_ratio, GradientRatio, RatioSeries, RatioRecorder.
"""
