"""Labelled images by name: readers, batches and augmentation.

Enters: a name and a folder. Leaves: Images (in memory) or a Folder (streamed). A new data set is one module with a
function that returns Images, and one row in ``by_name``. Never imports a problem.

Public: none; ``--data`` names them.
"""

from sharpscope.data.augment import crop_and_flip, cutout, mixup
from sharpscope.data.batches import batches
from sharpscope.data.by_name import FILED, load, names
from sharpscope.data.cifar import cifar10, cifar100
from sharpscope.data.digits import digits
from sharpscope.data.errors import DataError
from sharpscope.data.folder import Folder, imagenet
from sharpscope.data.images import Images
from sharpscope.data.mnist import fashion_mnist, mnist
from sharpscope.data.synthetic import synthetic

__all__ = [
    "DataError", "FILED", "Folder", "Images", "load", "names",
    "cifar10", "cifar100", "digits", "fashion_mnist", "imagenet", "mnist", "synthetic",
    "batches", "crop_and_flip", "cutout", "mixup",
]  # fmt: skip
