"""Files of other programs: Li et al.'s loss-landscape, CSV, VTK, netCDF.

Enters: results; files of others. Leaves: files for others; results. Never imports runs.

Public: export, read_csv, read_li_directions, read_li_surface, read_li_trajectory.
"""
