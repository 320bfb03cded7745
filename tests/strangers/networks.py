"""Public networks at tiny inputs: torchvision's, timm's, segmentation_models_pytorch's and nnU-Net's.

They are built without weights. ``pip install --no-deps`` puts these packages beside any torch; what is not installed is
skipped. Those of `USUAL` run with every change, all of them with ``STRANGERS=all`` (``make strangers``).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.strangers.networks import torchvision

Build = Callable[[], nn.Module]
# Batch norm over the two values of two pictures of one pixel is +1 and -1, or rounding made large: so there are more.
SMALL, LARGER = (3, 3, 64, 64), (3, 3, 96, 96)


def _skipping(build: Callable[[], Any], package: str) -> Any:
    try:
        return build()
    except ImportError as error:
        pytest.skip(f"{package} is not installed: {error}")


def vision(name: str, module: str = "models", **kwargs: Any) -> Build:
    """A network of torchvision."""

    def build() -> nn.Module:
        package = _skipping(torchvision, "torchvision")
        models = importlib.import_module(f"{package.__name__}.{module}")
        return getattr(models, name)(weights=None, **kwargs)

    return build


def timm(name: str, **kwargs: Any) -> Build:
    """A network of timm."""

    def build() -> nn.Module:
        _skipping(torchvision, "torchvision")
        package = _skipping(lambda: importlib.import_module("timm"), "timm")
        return package.create_model(name, num_classes=5, **kwargs)

    return build


def segmentation(name: str, encoder: str) -> Build:
    """A network of segmentation_models_pytorch."""

    def build() -> nn.Module:
        _skipping(torchvision, "torchvision")
        package = _skipping(
            lambda: importlib.import_module("segmentation_models_pytorch"), "segmentation_models_pytorch"
        )
        return getattr(package, name)(encoder, encoder_weights=None, classes=2)

    return build


def nnunet(norm: type[nn.Module], act: type[nn.Module], kernel: list[int]) -> Build:
    """nnU-Net's plain net, three stages of it."""

    def build() -> nn.Module:
        unet = _skipping(
            lambda: importlib.import_module("dynamic_network_architectures.architectures.unet"),
            "dynamic_network_architectures",
        )
        return unet.PlainConvUNet(
            input_channels=1,
            n_stages=3,
            features_per_stage=[8, 16, 16],
            conv_op=nn.Conv3d,
            kernel_sizes=[kernel, [3, 3, 3], [3, 3, 3]],
            strides=[[1, 1, 1], [1, 2, 2], [2, 2, 2]],
            n_conv_per_stage=[2, 2, 2],
            num_classes=3,
            n_conv_per_stage_decoder=[2, 2],
            conv_bias=True,
            norm_op=norm,
            norm_op_kwargs={"eps": 1e-5, "affine": True},
            nonlin=act,
            nonlin_kwargs={"inplace": True},
            deep_supervision=True,
        )

    return build


VIDEO, SEGMENTATION = "models.video", "models.segmentation"
USUAL: dict[str, tuple[Build, tuple[int, ...]]] = {
    "resnet18": (vision("resnet18"), SMALL),
    "resnet50": (vision("resnet50"), SMALL),
    "vgg11_bn": (vision("vgg11_bn", num_classes=5), SMALL),
    "squeezenet": (vision("squeezenet1_1"), LARGER),
    "mobilenet_v2": (vision("mobilenet_v2"), SMALL),
    "mobilenet_v3": (vision("mobilenet_v3_small"), SMALL),
    "shufflenet": (vision("shufflenet_v2_x0_5"), SMALL),
    "mnasnet": (vision("mnasnet0_5"), SMALL),
    "efficientnet_b0": (vision("efficientnet_b0"), SMALL),
    "regnet": (vision("regnet_y_400mf"), SMALL),
    "r2plus1d_18": (vision("r2plus1d_18", VIDEO), (2, 3, 4, 32, 32)),
    "lraspp": (vision("lraspp_mobilenet_v3_large", SEGMENTATION, weights_backbone=None), LARGER),
    "nnunet bn relu": (nnunet(nn.BatchNorm3d, nn.ReLU, [3, 3, 3]), (2, 1, 4, 8, 8)),
    "nnunet in leakyrelu": (nnunet(nn.InstanceNorm3d, nn.LeakyReLU, [1, 3, 3]), (2, 1, 4, 8, 8)),
    "timm resnet26t": (timm("resnet26t"), SMALL),
    "timm repvgg": (timm("repvgg_a0"), SMALL),
    "timm ghostnet": (timm("ghostnet_050"), SMALL),
    "timm cspdarknet": (timm("cs3darknet_s"), SMALL),
}
MORE: dict[str, tuple[Build, tuple[int, ...]]] = {
    "convnext": (vision("convnext_tiny"), SMALL),
    "resnext50": (vision("resnext50_32x4d"), SMALL),
    "densenet121": (vision("densenet121"), SMALL),
    "googlenet": (vision("googlenet", init_weights=False), LARGER),
    "inception_v3": (vision("inception_v3", init_weights=False), (3, 3, 96, 96)),
    "wide_resnet50": (vision("wide_resnet50_2"), SMALL),
    "efficientnet_v2_s": (vision("efficientnet_v2_s"), SMALL),
    "r3d_18": (vision("r3d_18", VIDEO), (2, 3, 4, 32, 32)),
    "mc3_18": (vision("mc3_18", VIDEO), (2, 3, 4, 32, 32)),
    "s3d": (vision("s3d", VIDEO), (2, 3, 16, 64, 64)),
    "fcn_resnet50": (vision("fcn_resnet50", SEGMENTATION, weights_backbone=None), SMALL),
    "deeplabv3_resnet50": (vision("deeplabv3_resnet50", SEGMENTATION, weights_backbone=None), SMALL),
    "unet resnet34": (segmentation("Unet", "resnet34"), LARGER),
    "unet++ resnet18": (segmentation("UnetPlusPlus", "resnet18"), LARGER),
    "manet resnet18": (segmentation("MAnet", "resnet18"), LARGER),
    "timm hrnet": (timm("hrnet_w18_small"), SMALL),
    "timm dla34": (timm("dla34"), SMALL),
    "timm res2net": (timm("res2net50_26w_4s"), SMALL),
    "timm skresnet18": (timm("skresnet18"), SMALL),
    "timm resnest14d": (timm("resnest14d"), SMALL),
    "timm resnetv2": (timm("resnetv2_50"), SMALL),
    "timm mobileone": (timm("mobileone_s0"), SMALL),
    "timm nfnet": (timm("nf_resnet26"), SMALL),
}


def quiet(net: nn.Module) -> nn.Module:
    """The network in float64, with nothing in it that is drawn again in each layout."""
    for module in net.modules():
        for name in ("p", "drop_prob"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    return net.double()


def example(shape: tuple[int, ...]) -> torch.Tensor:
    """An input for it."""
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
