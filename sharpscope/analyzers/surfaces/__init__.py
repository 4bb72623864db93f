"""The loss along lines and planes through the weights.

One way through: ``request`` (what is asked, checked) -> ``directions`` -> the problem's evaluator -> points (all or
refined, kept on the way) -> result. Enters: a problem and directions. Leaves: Surface, Line, Trajectory,
CurvatureMap. Filter normalisation is in ``directions``. Never imports gradients, masks or measures.

Public: surface, Surface, line, Line, Directions, random_directions, gradient_direction, hessian_directions,
pca_directions, towards, trajectory, Trajectory, TrajectoryRecorder, curvature_map, CurvatureMap.
"""
