"""Everything on disk: results, checkpoints, masks and curves in plain HDF5, and the only home of h5py.

Enters: results and trees of arrays; files of strangers. Leaves: immutable parts, runs, packed runs; what is read has
passed ``guard``, which refuses hostile files before anything is read from them. ``FORMAT.md`` describes the format.
Never imports anything but ``core``: it does not know who made a result.

Public: save, load, Run, create_run, open_run, pack_run, unpack_run, verify_run, collect, load_weights, StepWriter,
Damage, StoreError.
"""

from sharpscope.store._files import sweep, write_bytes
from sharpscope.store._parts import read_part, write_part
from sharpscope.store.check import Damage, verify_run
from sharpscope.store.collect import collect, collected, leaves
from sharpscope.store.errors import StoreError
from sharpscope.store.foreign import read_arrays, write_arrays
from sharpscope.store.pack import is_run, open_run, pack_run, unpack_run
from sharpscope.store.provenance import provenance, weights_digest
from sharpscope.store.results import load, save
from sharpscope.store.run import Run, create_run
from sharpscope.store.snapshots import Snapshots
from sharpscope.store.steps import StepWriter
from sharpscope.store.weights import load_weights

__all__ = [
    "Damage",
    "Run",
    "Snapshots",
    "StepWriter",
    "StoreError",
    "collect",
    "collected",
    "create_run",
    "is_run",
    "leaves",
    "load",
    "load_weights",
    "open_run",
    "pack_run",
    "provenance",
    "read_arrays",
    "read_part",
    "save",
    "sweep",
    "unpack_run",
    "verify_run",
    "weights_digest",
    "write_arrays",
    "write_bytes",
    "write_part",
]
