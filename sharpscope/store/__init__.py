"""Everything on disk: results, checkpoints, masks and curves in plain HDF5, and the only home of h5py.

``parts`` and ``run`` describe the format.
"""

from sharpscope.store.errors import StoreError
from sharpscope.store.pack import open_run, pack_run, unpack_run
from sharpscope.store.results import load, save
from sharpscope.store.run import Run, create_run

__all__ = ["Run", "StoreError", "create_run", "load", "open_run", "pack_run", "save", "unpack_run"]
