"""Networks of both papers by name, built from a seed.

Enters: a name with options, the shape of an image, a seed. Leaves: a module. A new network is one function in a
module here and one row in ``by_name``; a user's own needs neither. Never imports another room.

Public: none; ``--model`` names them.
"""

from sharpscope.models.by_name import ModelError, build, names, options
from sharpscope.models.convnet import ConvNet
from sharpscope.models.pyramidnet import PyramidNet
from sharpscope.models.resnet import BasicBlock, Bottleneck, ResNet, resnet18, resnet20, resnet50, resnet101
from sharpscope.models.vgg import VGG, vgg11_bn, vgg16_bn
from sharpscope.models.vit import VisionTransformer, vit_b, vit_s, vit_ti
from sharpscope.models.wideresnet import WideResNet

__all__ = [
    "ModelError", "build", "names", "options",
    "ConvNet", "BasicBlock", "Bottleneck", "ResNet", "resnet18", "resnet20", "resnet50", "resnet101",
    "WideResNet", "PyramidNet", "VGG", "vgg11_bn", "vgg16_bn", "VisionTransformer", "vit_b", "vit_s", "vit_ti",
]  # fmt: skip
