"""Files of other programs: those of Li et al.'s code, CSV, VTK (ParaView), netCDF."""
