"""Pictures of lines, planes, trajectories and maps, flat, as a relief, or to turn in a browser.

Enters: results of ``analyzers.surfaces``. Leaves: axes, or one HTML file. Never imports what computes.

Public: draw_line, draw_surface, draw_trajectory, draw_curvature_map, interactive.
"""
