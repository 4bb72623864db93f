"""What the papers state, read off their pages a second time and by hand; tests compare the recipes with it.

SSAM: Mi et al. 2022.  RST: Zhao et al. 2023.  None: the paper states nothing.
"""

from __future__ import annotations

from typing import Any

# SSAM section 5.1: batch 128, 200 epochs, lr 0.05, cosine, momentum 0.9, weight decay 5e-4 for SGD, 1e-3 for SAM and
# SSAM; cutout; rho 0.1 (CIFAR-10), 0.2 (CIFAR-100).  ImageNet: batch 256, lr 0.1, cosine, 0.9, 1e-4, rho 0.07.
SSAM_CIFAR = {"batch_size": 128, "epochs": 200, "lr": 0.05, "momentum": 0.9, "optimizer": "sgd", "schedule": "cosine"}
SSAM_IMAGENET = {"batch_size": 256, "lr": 0.1, "momentum": 0.9, "optimizer": "sgd", "schedule": "cosine"}
DECAY = {"ssam-cifar": (5e-4, 1e-3), "ssam-imagenet": (1e-4, 1e-4)}  # of SGD, of all others

# RST Tables 16 to 18
RST_CIFAR = {
    "batch_size": 256, "epochs": 200, "lr": 0.1, "optimizer": "sgd", "schedule": "cosine", "weight_decay": 1e-3,
}  # fmt: skip
RST_VIT = {
    "batch_size": 256, "epochs": 1200, "warmup": 40, "lr": 5e-4, "optimizer": "adam", "schedule": "cosine",
    "weight_decay": 0.03,
}  # fmt: skip
RST_IMAGENET = {
    "batch_size": 512, "epochs": 100, "lr": 0.2, "optimizer": "sgd", "schedule": "cosine", "weight_decay": 1e-4,
}  # fmt: skip

R18, W28, R50 = "resnet18", "wrn-28-10", "resnet50(stem='imagenet')"
C10, C100, IN = "cifar10", "cifar100", "imagenet"

# recipe: (model, data, rho, settings) of every column, in any order
SSAM: dict[str, set[tuple[str, str, float | None]]] = {
    "ssam-table1": {(R18, C10, 0.1), (R18, C100, 0.2)},
    "ssam-table2": {(W28, C10, 0.1), (W28, C100, 0.2)},
    "ssam-table3": {(R50, IN, 0.07)},
    "ssam-table4": {("vgg11-bn", C10, 0.05)},  # appendix B
    "ssam-table5": {(R18, C10, None), (W28, C10, None), (R18, C100, None), (W28, C100, None)},
    "ssam-table6": {(R50, IN, None)},
    "ssam-table7": {(R50, IN, 0.07)},
    "ssam-table8": {(R18, C10, 0.1)},
    "ssam-table9": {(R18, C10, 0.1)},
    "ssam-figure2": {(R18, C10, 0.1), (R18, C100, 0.2), (R50, IN, 0.07)},
    "ssam-figure3": {(W28, C10, 0.1), (W28, C100, 0.2), (R50, IN, 0.07)},
    "ssam-figure4": {(R18, C10, 0.1)},
    "ssam-figure5": {(R18, C10, 0.1)},
}
BOTH = {(R18, C10), (R18, C100), (W28, C10), (W28, C100)}
WIDE = {(W28, C10), (W28, C100)}
VGG = {("vgg16-bn", C10), ("vgg16-bn", C100)}
PYRAMID = {("pyramidnet-164", C10), ("pyramidnet-164", C100)}
VITS = {(f"vit-{size}", data) for size in ("ti", "s", "b") for data in (C10, C100)}
RST: dict[str, set[tuple[str, str]]] = {
    "rst-table1": BOTH,
    "rst-table3": BOTH | VGG | PYRAMID | VITS,
    "rst-table4": {(R50, IN), ("resnet101(stem='imagenet')", IN)},
    "rst-table6": WIDE,
    "rst-table7": WIDE,
    "rst-table8": WIDE,
    "rst-table9": WIDE,
    "rst-table10": WIDE,
    "rst-table11": VGG,
    "rst-table12": {("vit-s", C10), ("vit-s", C100)},
    "rst-table13": BOTH | VGG,
    "rst-table14": BOTH | VGG,
    "rst-figure1": BOTH,
    "rst-figure2": BOTH,
    "rst-figure4": BOTH,
    "rst-figure6": BOTH,
    "rst-figure7": WIDE,
    "rst-figure8": {(W28, C10)},
    "rst-figure9": WIDE,
}

TENTHS = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
SPARSITIES = [0.5, 0.8, 0.9, 0.95, 0.98, 0.99]  # SSAM Tables 1, 2 and 4
DELTA_ETA = {  # RST Table 2 and eq. 31, at the values that the text gives
    **{f"RST p={p}": p for p in TENTHS},
    **{f"RST piecewise 1 b={b}": 1 - b for b in TENTHS},
    **{f"RST piecewise 2 b={b}": b for b in TENTHS},
    **{f"RST piecewise 3 a={a}": 0.5 for a in TENTHS},
    **{f"RST linear 1 m={m}": m for m in TENTHS},
    **{f"RST linear 2 b={b}": 0.5 for b in TENTHS},
    "RST cos1": 0.5, "RST cos2": 0.5, "RST sin1": 2 / 3.141592653589793, "RST sin2": 1 - 2 / 3.141592653589793,
    "SGD": 0.0, "SAM": 1.0, "G-RST p=0.5": 0.5,
}  # fmt: skip

# Printed figures: (recipe, column, quantity, row): text
PRINTED: dict[tuple[str, str, str, str], Any] = {
    ("ssam-table1", "ResNet18 CIFAR10", "accuracy", "SGD"): 96.07,
    ("ssam-table1", "ResNet18 CIFAR10", "accuracy", "SSAM-D s=0.5"): 96.87,
    ("ssam-table1", "ResNet18 CIFAR100", "accuracy", "SSAM-F s=0.5"): 81.24,
    ("ssam-table1", "*", "flops", "SSAM-F s=0.9"): 1.36,
    ("ssam-table2", "WRN28-10 CIFAR100", "accuracy", "SSAM-F s=0.5"): 85.16,
    ("ssam-table2", "WRN28-10 CIFAR10", "accuracy", "SSAM-D s=0.8"): 97.72,
    ("ssam-table3", "ResNet50 ImageNet", "accuracy", "SSAM-F s=0.5"): 77.31,
    ("ssam-table4", "VGG11-BN CIFAR10", "accuracy", "SSAM-F s=0.5"): 94.03,
    ("ssam-table5", "WRN28-10 CIFAR100", "accuracy", "SAM rho=0.2"): 84.20,
    ("ssam-table6", "ResNet50 ImageNet", "accuracy", "SAM rho=0.07"): 77.25,
    ("ssam-table7", "ResNet50 ImageNet", "accuracy", "drop sharpest"): 76.68,
    ("ssam-table8", "ResNet18 CIFAR10", "fisher", "s=0.5 N_F=4096"): 109.31,
    ("ssam-table9", "ResNet18 CIFAR10", "accuracy", "SSAM-F s=0.9 T_m=2"): 93.75,
    ("rst-table1", "WRN28-10 CIFAR100", "error", "SGD"): 18.69,
    ("rst-table3", "ViT-S16 CIFAR100", "error", "G-RST p=0.5"): 26.24,
    ("rst-table3", "Pyramid164 CIFAR10", "error", "SAM"): 2.61,
    ("rst-table4", "ResNet101 ImageNet", "error", "G-RST p=0.5"): 20.78,
    ("rst-table6", "WRN28-10 CIFAR100", "error", "RST sin2"): 17.15,
    ("rst-table7", "WRN28-10 CIFAR10", "error", "RST p=0.8"): 2.23,
    ("rst-table8", "WRN28-10 CIFAR100", "error", "RST piecewise 1 b=0.1"): 14.75,
    ("rst-table9", "WRN28-10 CIFAR10", "error", "RST linear 1 m=0.8"): 2.22,
    ("rst-table10", "WRN28-10 CIFAR100", "error", "RST sin1"): 14.85,
    ("rst-table11", "VGG16BN CIFAR100", "error", "RST p=0.9"): 24.08,
    ("rst-table12", "ViT-S16 CIFAR10", "error", "RST p=0.7"): 10.85,
    ("rst-table13", "ResNet18 CIFAR10", "error", "GSAM + G-RST"): 3.70,
    ("rst-table14", "WRN28-10 CIFAR100", "error", "SSAM + G-RST p=0.75"): 16.56,
    ("rst-figure2", "ResNet18 CIFAR100", "error", "RST p=0.8"): 19.61,
}
