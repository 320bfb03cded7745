"""The timing set: public networks, built without weights, each with the batch of a training step.

torchvision, timm, segmentation_models_pytorch, dynamic_network_architectures and ultralytics are imported where they
are needed: ``pip install --no-deps`` puts them beside any torch.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.strangers import designs


class Case(NamedTuple):
    """One network and its input's shape."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]


def torchvision() -> Any:
    """The package. One that was built beside another torch lacks two operators, which are then declared here."""
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:  # what torch raises where an operator is missing
        if DECLARED or "torchvision::nms" not in str(error):
            raise
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    DECLARED.append(library)
    for module in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[module]
    return importlib.import_module("torchvision")


DECLARED: list[torch.library.Library] = []  # a library's operators go with it


def _vision(name: str, module: str = "models") -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        models = importlib.import_module(f"{torchvision().__name__}.{module}")
        kwargs = {"weights_backbone": None} if "segmentation" in module else {}
        return getattr(models, name)(weights=None, **kwargs)

    return build


def _unet() -> nn.Module:
    torchvision()
    return importlib.import_module("segmentation_models_pytorch").Unet("resnet34", encoder_weights=None, classes=2)


def _nnunet(norm: type[nn.Module], act: type[nn.Module], flat: bool = False) -> Callable[[], nn.Module]:
    """nnU-Net's plain net: five stages; an anisotropic one has kernels (1, 3, 3) at first, as thick slices want."""

    def build() -> nn.Module:
        unet = importlib.import_module("dynamic_network_architectures.architectures.unet")
        kernels = [[1, 3, 3], [1, 3, 3], [3, 3, 3], [3, 3, 3], [3, 3, 3]] if flat else [[3, 3, 3]] * 5
        strides = [[1, 1, 1], [1, 2, 2], [1, 2, 2] if flat else [2, 2, 2], [2, 2, 2], [2, 2, 2]]
        if not flat:
            strides[1] = [2, 2, 2]
        return unet.PlainConvUNet(
            input_channels=1,
            n_stages=5,
            features_per_stage=[32, 64, 128, 256, 320],
            conv_op=nn.Conv3d,
            kernel_sizes=kernels,
            strides=strides,
            n_conv_per_stage=[2] * 5,
            num_classes=3,
            n_conv_per_stage_decoder=[2] * 4,
            conv_bias=True,
            norm_op=norm,
            norm_op_kwargs={"eps": 1e-5, "affine": True},
            nonlin=act,
            nonlin_kwargs={"inplace": True},
        )

    return build


def _yolo() -> nn.Module:
    os.environ.setdefault("YOLO_VERBOSE", "false")
    torchvision()
    return importlib.import_module("ultralytics.nn.tasks").DetectionModel("yolo11n.yaml", verbose=False)


CASES: dict[str, Case] = {
    "resnet18": Case(_vision("resnet18"), (8, 3, 224, 224)),
    "resnet50": Case(_vision("resnet50"), (4, 3, 224, 224)),
    "mobilenet_v2": Case(_vision("mobilenet_v2"), (8, 3, 224, 224)),
    "densenet121": Case(_vision("densenet121"), (2, 3, 224, 224)),
    "vgg16_bn": Case(_vision("vgg16_bn"), (2, 3, 224, 224)),
    "efficientnet_b0": Case(_vision("efficientnet_b0"), (4, 3, 224, 224)),
    "r3d_18": Case(_vision("r3d_18", "models.video"), (1, 3, 16, 112, 112)),
    "r2plus1d_18": Case(_vision("r2plus1d_18", "models.video"), (1, 3, 8, 112, 112)),
    "deeplabv3_resnet50": Case(_vision("deeplabv3_resnet50", "models.segmentation"), (2, 3, 128, 128)),
    "unet_resnet34": Case(_unet, (2, 3, 256, 256)),
    "nnunet_bn_relu": Case(_nnunet(nn.BatchNorm3d, nn.ReLU), (1, 1, 64, 64, 64)),
    "nnunet_in_lrelu": Case(_nnunet(nn.InstanceNorm3d, nn.LeakyReLU), (1, 1, 64, 64, 64)),
    "nnunet_anisotropic": Case(_nnunet(nn.InstanceNorm3d, nn.LeakyReLU, flat=True), (1, 1, 16, 96, 96)),
    "yolo11n": Case(_yolo, (2, 3, 320, 320)),
}


def _timm(name: str) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        torchvision()
        return importlib.import_module("timm").create_model(name, pretrained=False)

    return build


def _unet_plus_plus() -> nn.Module:
    torchvision()
    smp = importlib.import_module("segmentation_models_pytorch")
    return smp.UnetPlusPlus("resnet18", encoder_weights=None, classes=2)


def _segresnet() -> nn.Module:
    return importlib.import_module("monai.networks.nets").SegResNet(3, init_filters=16, in_channels=1, out_channels=3)


def _monai_unet() -> nn.Module:
    """Instance norm, dropout of nothing and PReLU, with residual units."""
    channels, strides = (16, 32, 64, 128, 256), (2, 2, 2, 2)
    return importlib.import_module("monai.networks.nets").UNet(3, 1, 2, channels, strides, num_res_units=2)


# Networks that nobody has tuned a kernel, a rule or a threshold for: they show what a new network can expect.
UNTUNED: dict[str, Case] = {
    "regnet_y_400mf": Case(_vision("regnet_y_400mf"), (4, 3, 160, 160)),
    "convnext_tiny": Case(_vision("convnext_tiny"), (2, 3, 160, 160)),
    "shufflenet_v2_x1_0": Case(_vision("shufflenet_v2_x1_0"), (4, 3, 224, 224)),
    "mnasnet1_0": Case(_vision("mnasnet1_0"), (4, 3, 160, 160)),
    "squeezenet1_1": Case(_vision("squeezenet1_1"), (4, 3, 224, 224)),
    "efficientnet_v2_s": Case(_vision("efficientnet_v2_s"), (2, 3, 160, 160)),
    "mobilenet_v3_large": Case(_vision("mobilenet_v3_large"), (4, 3, 224, 224)),
    "wide_resnet50_2": Case(_vision("wide_resnet50_2"), (1, 3, 160, 160)),
    "ghostnet_100": Case(_timm("ghostnet_100"), (4, 3, 160, 160)),
    "hrnet_w18_small": Case(_timm("hrnet_w18_small"), (2, 3, 160, 160)),
    "unet_plus_plus_resnet18": Case(_unet_plus_plus, (1, 3, 160, 160)),
    "segresnet": Case(_segresnet, (1, 1, 48, 48, 48)),
    "monai_unet": Case(_monai_unet, (1, 1, 64, 64, 64)),
    "srresnet": Case(designs.SRResNet, (2, 3, 64, 64)),
    "edsr": Case(designs.EDSR, (2, 3, 64, 64)),
    "discriminator": Case(designs.discriminator, (4, 3, 128, 128)),
    "autoencoder": Case(designs.autoencoder, (8, 3, 128, 128)),
    "unet3d_gn": Case(designs.UNet3D, (1, 1, 48, 48, 48)),
    "mobilevit_xs": Case(_timm("mobilevit_xs"), (2, 3, 192, 192)),
    "seresnext26d_32x4d": Case(_timm("seresnext26d_32x4d"), (2, 3, 160, 160)),
    "seresnet18": Case(_timm("seresnet18"), (4, 3, 160, 160)),
    "convnextv2_atto": Case(_timm("convnextv2_atto"), (2, 3, 160, 160)),
    "vit_tiny": Case(_timm("vit_tiny_patch16_224"), (4, 3, 224, 224)),
}


def batch(shape: tuple[int, ...]) -> Tensor:
    """Random values, the same for everybody."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))
