"""Public networks at tiny inputs: of torchvision, timm, segmentation_models_pytorch, MONAI, ultralytics and nnU-Net.

They are built without weights. ``pip install --no-deps`` puts these packages beside any torch; what is not installed is
skipped. Those of `USUAL` run with every change, all of them with ``STRANGERS=all`` (``make strangers``).
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Container
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.strangers import designs
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


def with_a_small_head(build: Build) -> Build:
    """VGG with one linear layer in place of three, which have 120 of its 129 million parameters and fuse nothing."""

    def built() -> nn.Module:
        net = build()
        net.avgpool, net.classifier = nn.AdaptiveAvgPool2d(1), nn.Linear(512, 5)
        return net

    return built


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


def monai(name: str, *args: Any, **kwargs: Any) -> Build:
    """A network of MONAI."""

    def build() -> nn.Module:
        networks = _skipping(lambda: importlib.import_module("monai.networks.nets"), "monai")
        return getattr(networks, name)(*args, **kwargs)

    return build


def yolo(name: str) -> Build:
    """A network of ultralytics."""

    def build() -> nn.Module:
        _skipping(torchvision, "torchvision")
        tasks = _skipping(lambda: importlib.import_module("ultralytics.nn.tasks"), "ultralytics")
        kinds = {"seg": tasks.SegmentationModel, "cls": tasks.ClassificationModel}
        return kinds.get(name.rpartition("-")[2], tasks.DetectionModel)(f"{name}.yaml", verbose=False)

    return build


class Detecting(nn.Module):
    """A detector of torchvision: its losses in training, its backbone's maps in evaluation."""

    def __init__(self, name: str) -> None:
        super().__init__()
        build = vision(name, "models.detection", weights_backbone=None, num_classes=3, min_size=64, max_size=64)
        self.net = build()

    def forward(self, x: torch.Tensor) -> Any:
        boxes, labels = torch.tensor([[4.0, 4.0, 30.0, 40.0]], dtype=x.dtype), torch.tensor([1])
        if not self.training:
            return self.net.backbone(x)
        return self.net(list(x), [{"boxes": boxes, "labels": labels} for _ in x])


VIDEO, SEGMENTATION = "models.video", "models.segmentation"
USUAL: dict[str, tuple[Build, tuple[int, ...]]] = {
    "resnet18": (vision("resnet18"), SMALL),
    "resnet50": (vision("resnet50"), SMALL),
    "vgg11_bn": (with_a_small_head(vision("vgg11_bn")), SMALL),
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
    "srresnet": (partial(designs.SRResNet, 16, 2), (2, 3, 12, 12)),
    "edsr": (partial(designs.EDSR, 16, 2), (2, 3, 12, 12)),
    "discriminator": (partial(designs.discriminator, 8), (2, 3, 40, 40)),
    "autoencoder": (partial(designs.autoencoder, 8), (3, 3, 32, 32)),
    "unet3d group norm": (partial(designs.UNet3D, 8), (1, 1, 8, 8, 8)),
    "monai unet prelu": (monai("UNet", 3, 1, 2, (4, 8, 16), (2, 2), num_res_units=2), (2, 1, 16, 16, 16)),
}
USUAL_TIMM = """
    resnet10t resnet14t seresnet18 skresnet18 resnetv2_18 lcnet_050 hardcorenas_a mobilenetv4_conv_small semnasnet_050
    rexnet_100 tinynet_e hgnetv2_b0 regnetx_002 regnety_002 regnetz_005 convnext_atto starnet_s1 efficientvit_m0
    fbnetc_100 mobilevit_xxs test_byobnet test_resnet test_efficientnet test_mambaout
"""
USUAL |= {f"timm {name}": (timm(name), SMALL) for name in USUAL_TIMM.split()}
MORE: dict[str, tuple[Build, tuple[int, ...]]] = {
    "convnext": (vision("convnext_tiny"), SMALL),
    "resnext50": (vision("resnext50_32x4d"), SMALL),
    "densenet121": (vision("densenet121"), SMALL),
    "googlenet": (vision("googlenet", init_weights=False), LARGER),
    "inception_v3": (vision("inception_v3", init_weights=False, aux_logits=False), LARGER),
    "wide_resnet50": (vision("wide_resnet50_2"), SMALL),
    "efficientnet_v2_s": (vision("efficientnet_v2_s"), SMALL),
    "r3d_18": (vision("r3d_18", VIDEO), (2, 3, 4, 32, 32)),
    "mc3_18": (vision("mc3_18", VIDEO), (2, 3, 4, 32, 32)),
    "s3d": (vision("s3d", VIDEO), (1, 3, 16, 224, 224)),
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
TIMM = """
    convmixer_768_32 cspresnet50 cspresnext50 darknet53 densenetblur121d dpn48b dpn68 eca_nfnet_l0 eca_resnext26ts
    ecaresnet26t edgenext_xx_small efficientnet_b1_pruned efficientnet_es efficientnet_lite0 efficientvit_m0
    fasternet_t0 fastvit_t8 fbnetc_100 fbnetv3_b gcresnet33ts gcresnext26ts gernet_s ghostnetv2_100 hardcorenas_a
    hgnet_tiny hgnetv2_b0 inception_next_atto lambda_resnet26t lcnet_050 legacy_seresnet18 legacy_xception mixnet_s
    mnasnet_small mobilenet_edgetpu_100 mobilenetv4_conv_small mobilevit_xxs mobilevitv2_050 nextvit_small
    nf_regnet_b0 nf_ecaresnet26 poolformer_s12 regnetv_040 regnetx_002 regnety_002 regnetz_005 regnetz_b16
    repghostnet_050 repvit_m0_9 res2next50 resnet10t resnet14t resnet32ts resnet33ts resnet50_gn resnetaa50
    resnetblur18 resnetrs50 resnetv2_18 resnetv2_50d_evos resnetv2_50d_gn resnetv2_50x1_bit rexnet_100 rexnetr_200
    selecsls42b semnasnet_050 seresnet18 seresnext26d_32x4d seresnext26ts skresnext50_32x4d spnasnet_100 starnet_s1
    tf_efficientnet_b0 tf_efficientnetv2_b0 tf_mobilenetv3_small_075 tinynet_e tresnet_m vovnet39a xception41
    xception41p convnextv2_atto convnext_atto caformer_s18 convformer_s18 mambaout_femto rdnet_tiny repvgg_b0
    mobileone_s1 test_byobnet test_convnext test_efficientnet test_mambaout test_nfnet test_resnet test_vit2
    dla46x_c dla60_res2net hrnet_w18_small_v2 pvt_v2_b0 tiny_vit_5m_224 iformer_t lcnetv2_small lowformer_b0
    efficientvit_b0 ese_vovnet19b_dw shvit_s1 csatv2
"""
TIMM_OF_ONE_SIZE = """
    swiftformer_xs coatnet_nano_rw_224 vit_tiny_r_s16_p8_224 gmlp_s16_224 levit_128s twins_svt_small volo_d1_224
    xcit_nano_12_p16_224
"""
TORCHVISION = """
    alexnet resnet34 resnext50_32x4d regnet_x_400mf regnet_y_800mf
"""
DETECTORS = """
    retinanet_resnet50_fpn retinanet_resnet50_fpn_v2 fcos_resnet50_fpn
"""
SEGMENTERS = """
    fcn_resnet101 deeplabv3_mobilenet_v3_large
"""
UNETS = """
    Linknet/resnet18 FPN/resnet18 PSPNet/resnet18 DeepLabV3/resnet18 DeepLabV3Plus/mobilenet_v2 Unet/mobilenet_v2
    Unet/vgg11_bn Unet/densenet121 UPerNet/resnet18 Segformer/resnet18 Unet/timm-efficientnet-b0
    Unet/efficientnet-b0 Unet/timm-mobilenetv3_small_075 Unet/dpn68 Unet/se_resnet50
"""
YOLO = """
    yolo11n yolov8n yolov5n yolov3-tiny yolov9t yolov10n yolo11n-seg yolo11n-cls yolov6n yolo12n yolov8n-cls
"""
VOLUME = (2, 1, 32, 32, 32)
MEDICAL: dict[str, tuple[Build, tuple[int, ...]]] = {
    "UNet": (monai("UNet", 3, 1, 2, (4, 8, 16), (2, 2), num_res_units=2), VOLUME),
    "UNet 2d": (monai("UNet", 2, 1, 2, (4, 8, 16), (2, 2), norm="batch", act="relu"), (2, 1, 32, 32)),
    "BasicUNet": (monai("BasicUNet", 3, 1, 2, (4, 4, 8, 8, 16, 4)), VOLUME),
    "DynUNet": (monai("DynUNet", 3, 1, 2, [3, 3, 3], [1, 2, 2], [2, 2], filters=[4, 8, 16]), VOLUME),
    "SegResNet": (monai("SegResNet", 3, 8, 1, 2), VOLUME),
    "SegResNetDS": (monai("SegResNetDS", 3, 8, 1, 2), VOLUME),
    "VNet": (monai("VNet", 3, 1, 2), VOLUME),
    "AttentionUnet": (monai("AttentionUnet", 3, 1, 2, (4, 8, 16), (2, 2)), VOLUME),
    "DenseNet121": (monai("DenseNet121", 3, 1, 2), VOLUME),
    "SEResNet50": (monai("SEResNet50", spatial_dims=3, in_channels=1, num_classes=2), (4, 1, 48, 48, 48)),
    "resnet10": (monai("resnet10", spatial_dims=3, n_input_channels=1, num_classes=2), VOLUME),
    "HighResNet": (monai("HighResNet", 3, 1, 2), VOLUME),
    "RegUNet": (monai("RegUNet", 3, 1, 4, 2), VOLUME),
    "MedNeXt": (monai("MedNeXt", 3, 8, 1, 2), VOLUME),
    "UNETR": (monai("UNETR", 1, 2, (32, 32, 32), 4, 48, 96, 4), VOLUME),
    "EfficientNetBN": (monai("EfficientNetBN", "efficientnet-b0", pretrained=False), SMALL),
    "FlexibleUNet": (monai("FlexibleUNet", 3, 2, "efficientnet-b0", pretrained=False), SMALL),
    "Discriminator": (monai("Discriminator", (1, 32, 32), (8, 16), (2, 2)), (2, 1, 32, 32)),
    "AutoEncoder": (monai("AutoEncoder", 2, 1, 1, (4, 8), (2, 2)), (2, 1, 32, 32)),
}


def more() -> dict[str, tuple[Build, tuple[int, ...]]]:
    """All but the usual ones."""
    found = dict(MORE)
    found |= {f"timm {name}": (timm(name), SMALL) for name in TIMM.split()}
    found |= {f"timm {name}": (timm(name, img_size=64), SMALL) for name in TIMM_OF_ONE_SIZE.split()}
    found |= {name: (vision(name, num_classes=5), SMALL) for name in TORCHVISION.split()}
    found |= {name: (partial(Detecting, name), (2, 3, 64, 64)) for name in DETECTORS.split()}
    found |= {name: (vision(name, SEGMENTATION, weights_backbone=None), SMALL) for name in SEGMENTERS.split()}
    found |= {f"smp {name}": (segmentation(*name.split("/")), LARGER) for name in UNETS.split()}
    found |= {f"ultralytics {name}": (yolo(name), SMALL) for name in YOLO.split()}
    found |= {f"monai {name}": case for name, case in MEDICAL.items()}
    return found


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


NETWORKS = {**more(), **USUAL}


def made(name: str, few: Container[str]) -> tuple[nn.Module, torch.Tensor]:
    """A network of `NETWORKS` and an input for it. Skips the test if it is none of a few, unless all run."""
    if name not in few and os.environ.get("STRANGERS") != "all":
        pytest.skip("runs with STRANGERS=all")
    build, shape = NETWORKS[name]
    torch.manual_seed(0)
    return build(), example(shape)
