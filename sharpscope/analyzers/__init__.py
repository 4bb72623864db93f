"""Questions about a minimum, one function and one frozen result each.

Enters: a problem, an operator or masks, with a seed. Leaves: a Result with its error. ``spectra`` ask the curvature,
``surfaces`` the loss around the weights, ``gradients`` the SAM-vs-SGD ratio, ``masks`` what a mask selects,
``measures`` single numbers of sharpness. Never imports training, files or pictures.

Public: see the five rooms.
"""
