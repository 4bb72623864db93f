"""What goes to disk and is resumed: training a run, analysing it, its figures.

Enters: an Experiment or a stored Run. Leaves: a fuller Run. Everything here may be killed and called again: what is
on disk is not computed twice. Never imports recipes.

Public: resumable, PointFile.
"""
