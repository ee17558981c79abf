"""torchvision's own networks: their layers found, read and fitted."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from captum.attr import LayerGradCam
from torch import Tensor, nn
from torchvision.models import get_model

from captum_hrcam import HRCAM, compare, find_layers
from captum_hrcam.activations import read_feature_maps

pytestmark = pytest.mark.usefixtures("one_thread")


def grid(tokens: Tensor) -> Tensor:
    """ViT's patch tokens (N, 1 + 16, C) as maps (N, C, 4, 4), without the class token."""
    return tokens[:, 1:].mT.unflatten(2, (4, 4))


@dataclass(frozen=True)
class Network:
    name: str
    build: Callable[[], nn.Module]
    layers: list[str]
    size: tuple[int, ...] = (64, 64)
    reshape_transform: Callable[[Tensor], Tensor] | None = None

    def images(self, n: int = 1) -> Tensor:
        return torch.randn(n, 3, *self.size, generator=torch.Generator().manual_seed(0))


def network(name: str, layers: str, *size: int, **options) -> Network:
    reshape = options.pop("reshape_transform", None)
    return Network(
        name,
        lambda: get_model(name, weights=None, num_classes=3, **options),
        layers.split(),
        size or (64, 64),
        reshape,
    )


def vgg(name: str, *numbers: int) -> Network:
    """VGG with one linear layer as classifier: its own has 120 million weights to draw."""

    def build() -> nn.Module:
        with torch.device("meta"):
            model = get_model(name, weights=None, init_weights=False)
            model.classifier = nn.Linear(512 * 7 * 7, 3)
        model.to_empty(device="cpu")
        for module in model.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
        return model

    return Network(name, build, features(*numbers).split())


def features(*numbers: int) -> str:
    return " ".join(f"features.{i}" for i in numbers)


RESNET = "relu layer1 layer2 layer3 layer4"
DENSENET = "features.relu0 " + " ".join(f"features.denseblock{i}" for i in (1, 2, 3, 4))
REGNET = "stem " + " ".join(f"trunk_output.block{i}" for i in (1, 2, 3, 4))
INCEPTION = "Conv2d_2b_3x3 Conv2d_4a_3x3 Mixed_5d Mixed_6e Mixed_7c"
SWIN = {"reshape_transform": lambda f: f.movedim(-1, 1)}  # channels last
FAST = {"init_weights": False}  # torchvision's own takes seconds
NETWORKS = [
    network("resnet18", RESNET),
    network("resnet18", RESNET, 65, 97),
    network("resnet50", RESNET),
    network("resnext50_32x4d", RESNET),
    vgg("vgg11", 1, 4, 9, 14, 19),
    vgg("vgg16", 3, 8, 15, 22, 29),
    vgg("vgg16_bn", 5, 12, 22, 32, 42),
    vgg("vgg19", 3, 8, 17, 26, 35),
    vgg("vgg19_bn", 5, 12, 25, 38, 51),
    network("alexnet", features(1, 4, 11)),
    network("densenet121", DENSENET),
    network("mobilenet_v2", features(1, 3, 6, 13, 18)),
    network("mobilenet_v3_small", features(0, 1, 3, 8, 12)),
    network("mobilenet_v3_large", features(1, 3, 6, 12, 16)),
    network("efficientnet_b0", features(1, 2, 3, 5, 8)),
    network("efficientnet_v2_s", features(1, 2, 3, 5, 7)),
    network("convnext_tiny", features(1, 3, 5, 7)),
    network("googlenet", "conv1 conv3 inception3b inception4e inception5b", **FAST),
    network("inception_v3", INCEPTION, 107, 107, **FAST),
    network("squeezenet1_0", features(1, 5, 10, 12)),
    network("squeezenet1_1", features(1, 4, 7, 12)),
    network("shufflenet_v2_x1_0", "conv1 stage2 stage3 conv5"),
    network("regnet_x_400mf", REGNET),
    network("regnet_y_400mf", REGNET),
    network("mnasnet0_5", "layers.5 layers.8 layers.9 layers.11 layers.16"),
    network("swin_t", features(1, 3, 5, 7), **SWIN),
    network("swin_v2_t", features(1, 3, 5, 7), **SWIN),
    network("vit_b_16", "encoder.layers", image_size=64, reshape_transform=grid),
    network("r3d_18", "layer1 layer2 layer3 layer4", 4, 32, 32),
    network("mc3_18", "layer1 layer2 layer3 layer4", 4, 32, 32),
    network("r2plus1d_18", "layer1 layer2 layer3 layer4", 4, 32, 32),
    network("swin3d_t", features(0, 2, 4, 6), 4, 64, 64, **SWIN),
]


@pytest.fixture(scope="module", params=NETWORKS, ids=lambda net: f"{net.name}-{net.size[-1]}")
def net(request) -> tuple[Network, nn.Module]:
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision's own, on initialisation
        torch.manual_seed(0)
        return request.param, request.param.build()


@torch.no_grad()
def feature_maps(model: nn.Module, case: Network) -> dict[str, Tensor]:
    maps: dict[str, Tensor] = {}
    layers = {name: model.get_submodule(name) for name in case.layers}
    read = {"reshape_transform": case.reshape_transform}
    model.eval()
    with read_feature_maps(layers, lambda name, f: maps.update({name: f.clone()}), **read):
        model(case.images())
    return maps


class TestTorchvision:
    def test_finds(self, net):
        case, model = net
        options = {"reshape_transform": case.reshape_transform}
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = find_layers(model, case.images(), **options)
        assert found == case.layers
        sizes = [torch.Size(shape[1:]).numel() for shape in found.shapes.values()]
        assert sizes == sorted(set(sizes), reverse=True)

    def test_values_are_what_a_network_without_in_place_operations_has(self, net):
        case, model = net
        in_place = [m for m in model.modules() if getattr(m, "inplace", False)]
        maps = feature_maps(model, case)
        try:
            for module in in_place:
                module.inplace = False
            torch.testing.assert_close(maps, feature_maps(model, case))
        finally:
            for module in in_place:
                module.inplace = True

    def test_hrcam_fits_and_attributes(self, net):
        case, model = net
        images, labels = case.images(6), torch.arange(6) % 3
        hrcam = HRCAM(model, case.layers, reshape_transform=case.reshape_transform)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # six images of noise
            hrcam.fit([(images, labels)], solver="pattern")
        maps = hrcam.attribute(images[:2], target=1)
        assert maps.shape == (2, 1, *case.size)
        assert maps.isfinite().all()


def test_vgg19_as_it_is_with_its_dense_classifier():
    model = get_model("vgg19", weights=None, **FAST).eval()
    images = torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    found = find_layers(model, images[:1])
    pools = [i for i, module in enumerate(model.features) if isinstance(module, nn.MaxPool2d)]
    assert found == [f"features.{i - 1}" for i in pools]
    assert all(isinstance(model.get_submodule(name), nn.ReLU) for name in found)
    hrcam = HRCAM(model, found)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # eight images of noise
        hrcam.fit([(images, torch.arange(8) % 2)], n_classes=2, solver="pattern")
    methods = [hrcam, LayerGradCam(model, model.get_submodule(found[-1]))]
    maps = compare(methods, images[:2], target=1)
    assert [a.shape for a in maps.values()] == [(2, 1, 64, 64)] * 2
    assert all(a.isfinite().all() and a.any() for a in maps.values())
