"""One layer per resolution, found in home-made networks; what is refused."""

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from cases import CONV, GAP, NORM, POOL
from torch import Tensor, nn
from torchvision.models import VisionTransformer, get_model

from captum_hrcam import HRCAM, find_layers

pytestmark = pytest.mark.usefixtures("one_thread")


def channels_last(x: Tensor) -> Tensor:
    return x.movedim(-1, 1)


def conv(i: int, o: int, d: int = 2, **options) -> nn.Module:
    return CONV[d](i, o, 3, padding=1, **options)


def stage(i: int, o: int, *then: nn.Module, d: int = 2) -> nn.Sequential:
    return nn.Sequential(conv(i, o, d), NORM[d](o), nn.ReLU(inplace=True), *then)


def head(c: int, d: int = 2) -> tuple[nn.Module, ...]:
    return GAP[d](1), nn.Flatten(), nn.Linear(c, 3)


class FunctionalPool(nn.Module):
    """The block of audio networks: what is pooled is pooled by a function."""

    def __init__(self, i: int, o: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(i, o), nn.BatchNorm2d(o)
        self.conv2, self.bn2 = conv(o, o), nn.BatchNorm2d(o)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu_(self.bn1(self.conv1(x)))
        return F.avg_pool2d(F.relu_(self.bn2(self.conv2(x))), 2)


class Lines(nn.Module):
    """A network whose forward is written line by line, with one ReLU and one pooling for all."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = nn.Conv2d(3, 4, 5), nn.Conv2d(4, 4, 5), conv(4, 4)
        self.relu, self.pool, self.fc = nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.pool(self.relu(self.conv1(x)))
        x = self.pool(self.relu(self.conv2(x)))
        x = self.relu(self.conv3(x))
        return {"logits": self.fc(x.mean((2, 3)))}


class Auxiliary(nn.Module):
    """Two auxiliary classifiers that run in eval mode too, a second input, a tuple as output."""

    def __init__(self) -> None:
        super().__init__()
        self.stage1, self.stage2 = stage(3, 4, nn.MaxPool2d(2)), stage(4, 4, nn.MaxPool2d(2))
        self.aux1 = nn.Sequential(stage(4, 4), *head(4))
        self.aux2 = nn.Sequential(nn.AdaptiveAvgPool2d(2), stage(4, 4), *head(4))
        self.stage3, self.head = stage(4, 4), nn.Sequential(*head(4))
        self.age = nn.Sequential(nn.Linear(2, 3), nn.ReLU())

    def forward(self, x: Tensor, age: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.stage1(x)
        aux1 = self.aux1(x)
        x = self.stage2(x)
        aux2 = self.aux2(x)
        return self.head(self.stage3(x)) + self.age(age), aux1, aux2


class Segmenting(nn.Module):
    """Scores from the coarse maps, or those at the end; a mask from the fine ones."""

    def __init__(self, gives_both=False, detached=False, gives_loss=False, at_the_end=False):
        super().__init__()
        self.gives_loss, self.at_the_end = gives_loss, at_the_end
        self.fine, self.coarse, self.decoder = stage(3, 4), stage(4, 8), stage(12, 4)
        self.mask, self.fc = conv(4, 1), nn.Linear(8, 2)
        self.gives_both, self.detached = gives_both, detached

    def forward(self, x):
        x -= x.mean()  # in place, as models may
        fine = self.fine(x)
        coarse = self.coarse(F.max_pool2d(fine, 2))
        decoded = self.decoder(torch.cat([fine, F.interpolate(coarse, scale_factor=2)], 1))
        mask = self.mask(decoded)
        if self.at_the_end:
            return decoded.mean((2, 3))
        scores = self.fc((coarse.detach() if self.detached else coarse).mean((2, 3)))
        loss = {"loss": mask.mean()} if self.gives_loss else {}
        return {"mask": mask, "label": [scores]} | loss if self.gives_both else scores


class Crop(nn.Conv2d):
    """A convolution that gives a view of more."""

    def forward(self, x):
        return super().forward(x)[:, :, 1:-1, 1:-1]


class Unsuited(nn.Module):
    """Two layers, and what works in no training."""

    def __init__(self, way):
        super().__init__()
        self.way = way
        self.fine = Crop(3, 4, 3, padding=2) if way == "crop" else conv(3, 4)
        self.coarse, self.fc = stage(4, 8), nn.Linear(8, 2)
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x):
        fine = self.fine(x)
        if self.way == "numpy":
            fine = torch.from_numpy(fine.numpy())
        if self.way == "weight":
            self.fc.weight.clamp_(-1, 1)
        if self.way == "view":
            for part in fine.chunk(2, 1):
                part.mul_(2)
        if self.way == "kept":
            self.kept = fine
        if self.way == "buffer":
            self.mean.mul_(0.9).add_(fine.mean((0, 2, 3)))
        return self.fc(self.coarse(F.max_pool2d(fine.relu_(), 2)).mean((2, 3)))


class Skipping(nn.Module):
    """The input comes in again at the end, through a row of bare layers that runs last."""

    def __init__(self):
        super().__init__()
        self.block, self.last = stage(3, 4), stage(4, 8)
        self.skip = nn.Sequential(conv(3, 8, stride=2), nn.BatchNorm2d(8))
        self.fc = nn.Linear(8, 2)

    def forward(self, x):
        last = self.last(F.max_pool2d(self.block(x), 2))
        return self.fc(F.relu(last + self.skip(x)).mean((2, 3)))


class Twice(nn.Module):
    """Two images through one layer."""

    def __init__(self):
        super().__init__()
        self.shared = conv(3, 4)

    def forward(self, x):
        return (self.shared(x) - self.shared(x.flip(3))).mean((2, 3))


class Pair(nn.Module):
    """Gives its maps twice, as a tuple."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.inner(x)
        return x, x


class PoolFirst(nn.MaxPool2d):
    def forward(self, pair: tuple[Tensor, Tensor]) -> Tensor:
        return super().forward(pair[0])


class Normalize(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x - 0.5) / 0.25


class Move(nn.Module):
    def __init__(self, source: int, destination: int) -> None:
        super().__init__()
        self.axes = source, destination

    def forward(self, x: Tensor) -> Tensor:
        return x.movedim(*self.axes)


class Excited(nn.Module):
    """x beside new channels, each scaled by what a linear layer says of all."""

    def __init__(self, i: int, growth: int) -> None:
        super().__init__()
        self.conv, self.scale = conv(i, growth), nn.Linear(growth, growth)

    def forward(self, x: Tensor) -> Tensor:
        new = self.conv(x)
        return torch.cat([x, new * self.scale(new.mean((2, 3))).sigmoid()[..., None, None]], 1)


class Signals(nn.Module):
    """A transformer on (N, C, length): its tokens are (N, length, C)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.fc = nn.Linear(2, 16), nn.Linear(16, 3)
        self.encoder = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.encoder(self.embed(x.mT)).mean(1))


def swin() -> nn.Module:
    return get_model("swin_t", weights=None, num_classes=3)


X = torch.randn(2, 3, 32, 32)


class TestHomeMade:
    def find(self, *modules: nn.Module, x: Tensor = X) -> list[str]:
        return find_layers(nn.Sequential(*modules), x)

    def test_stages_that_end_in_a_pooling(self):
        pool, drop = nn.MaxPool2d(2), nn.Dropout(0.1)
        stages = stage(3, 4, pool), stage(4, 4), stage(4, 4, nn.MaxPool2d(2), drop), stage(4, 4)
        assert self.find(*stages, *head(4)) == ["0.2", "2.2", "3"]

    def test_blocks_that_pool_by_a_function(self):
        assert self.find(FunctionalPool(3, 4), FunctionalPool(4, 4), *head(4)) == ["0.bn2", "1.bn2"]

    def test_activation_after_the_pooling(self):
        blocks = [(conv(3, 3), nn.MaxPool2d(2), nn.ReLU()) for _ in range(3)]
        assert self.find(*sum(blocks, ()), *head(3)) == ["0", "3", "6"]
        stages = [nn.Sequential(*block) for block in blocks]
        assert self.find(*stages, *head(3)) == ["0.0", "1.0", "2.0"]

    def test_images_stay_that_a_model_changes_in_place(self):
        x = X.clone()
        find_layers(Segmenting(at_the_end=True), x)
        assert torch.equal(x, X)

    def test_layers_written_line_by_line(self):
        assert find_layers(Lines(), X) == ["conv1", "conv2", "conv3"]

    def test_unpadded_convolutions_are_no_downsampling(self):
        valid = [nn.Conv2d(3, 3, 5), nn.ReLU(), nn.Conv2d(3, 3, 5), nn.ReLU(), nn.MaxPool2d(2)]
        assert self.find(*valid, nn.Conv2d(3, 3, 5), nn.ReLU(), *head(3)) == ["3", "6"]

    def test_pooling_twice_gives_no_layer_between(self):
        pools = nn.MaxPool2d(2), nn.AvgPool2d(2)
        assert self.find(stage(3, 4), *pools, stage(4, 4), *pools, *head(4)) == ["0", "3"]

    def test_what_follows_the_last_block(self):
        closing = nn.AvgPool2d(3, 1, 1), nn.Identity(), nn.BatchNorm2d(4), nn.Dropout2d(0.1)
        assert self.find(stage(3, 4), *closing, *head(4)) == ["0"]

    def test_normalisation_of_the_input(self):
        network = stage(3, 4, nn.MaxPool2d(2)), stage(4, 4), *head(4)
        for normalize in (Normalize(), nn.BatchNorm2d(3)):
            assert self.find(normalize, nn.Sequential(*network)) == ["1.0.2", "1.1"]
        assert self.find(nn.BatchNorm2d(3), nn.MaxPool2d(2), stage(3, 4), *head(4)) == ["2"]

    def test_features_with_one_pooling(self):
        features = nn.Sequential(*stage(3, 4), nn.MaxPool2d(2), *stage(4, 4))
        assert self.find(features, *head(4)) == ["0.2", "0.6"]

    def test_wrapped_network(self):
        network = stage(3, 4, nn.MaxPool2d(2)), stage(4, 4), *head(4)
        assert self.find(nn.Sequential(nn.Sequential(*network))) == ["0.0.0.2", "0.0.1"]

    def test_auxiliary_classifiers_are_passed_over(self):
        assert find_layers(Auxiliary(), (X, torch.randn(2, 2))) == [
            "stage1.2",
            "stage2.2",
            "stage3",
        ]

    def test_what_gives_several_tensors_is_opened(self):
        network = stage(3, 4), Pair(stage(4, 4)), PoolFirst(2), stage(4, 4)
        assert self.find(*network, *head(4)) == ["1.inner", "3"]

    def test_padding_is_no_layer(self):
        network = stage(3, 4), nn.ZeroPad2d(1), nn.MaxPool2d(2), stage(4, 4)
        assert self.find(*network, *head(4)) == ["0", "3"]

    def test_quantised_layers_hold_their_weights_in_no_parameter(self):
        quantised = torch.ao.nn.quantized
        model = nn.Sequential(
            quantised.Quantize(0.1, 0, torch.quint8),
            nn.Sequential(quantised.Conv2d(3, 4, 3, padding=1), nn.ReLU()),
            nn.MaxPool2d(2),
            nn.Sequential(quantised.Conv2d(4, 4, 3, padding=1), nn.ReLU()),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            quantised.Linear(4, 3),
            quantised.DeQuantize(),
        )
        assert find_layers(model, X) == ["1", "3"]

    @pytest.mark.parametrize("frozen", [False, True])
    @pytest.mark.parametrize("gives_both", [False, True])
    def test_a_decoder_beside_the_scores_is_passed_over(self, gives_both, frozen):
        model = Segmenting(gives_both).requires_grad_(not frozen)
        assert find_layers(model, X) == ["fine", "coarse"]

    def test_of_scores_after_an_ascent_the_descent_is_told(self):
        """A U-Net that classifies by its last maps; an auxiliary classifier is no descent."""
        told = r"'coarse', its coarsest layer.*descent, too, \['fine', 'coarse', 'decoder'\]"
        with pytest.warns(UserWarning, match=told) as warned:
            assert find_layers(Segmenting(at_the_end=True), X) == ["decoder"]
        assert [w.filename for w in warned] == [__file__]  # of who called it
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            find_layers(Segmenting(), X)
            find_layers(Auxiliary(), (X, torch.randn(2, 2)))

    def test_a_loss_beside_the_scores_is_no_score(self):
        assert find_layers(Segmenting(gives_both=True, gives_loss=True), X) == ["fine", "coarse"]

    @pytest.mark.parametrize("way", ["numpy", "weight", "view", "kept", "buffer"])
    def test_models_that_gradients_do_not_suit(self, way):
        model = Unsuited(way)
        assert find_layers(model, X) == ["fine", "coarse"]
        copy.deepcopy(model)  # which refuses tensors of a graph

    def test_a_view_that_is_changed_in_place_is_a_layer(self):
        assert find_layers(Unsuited("crop"), X) == ["fine", "coarse"]

    def test_models_and_images_of_inference_mode(self):
        with torch.inference_mode():
            model, images = nn.Sequential(stage(3, 4), nn.MaxPool2d(2), *head(4)), X.clone()
            assert find_layers(model, images) == ["0"]
        assert find_layers(model, X) == ["0"]
        trained = nn.Sequential(stage(3, 4), nn.MaxPool2d(2), *head(4))
        assert find_layers(trained, images) == ["0"]

    def test_detached_features_are_layers_all_the_same(self):
        assert find_layers(Segmenting(detached=True).requires_grad_(False), X)[0] == "decoder"

    def test_a_projection_of_a_skip_is_no_layer(self):
        assert find_layers(Skipping(), X) == ["block", "last"]

    def test_layer_that_runs_twice_is_passed_over(self):
        twice = stage(4, 4)
        assert self.find(stage(3, 4), twice, twice, *head(4)) == ["0"]

    @pytest.mark.parametrize("d", [1, 2, 3])
    @pytest.mark.parametrize("length", [16, 13])
    def test_dimensions(self, d, length):
        model = nn.Sequential(
            *stage(2, 4, POOL[d](2), d=d), stage(4, 6, d=d), conv(6, 6, d, stride=2), *head(6, d)
        )
        found = find_layers(model, torch.randn(1, 2, *[length] * d))
        assert found == ["2", "4", "5"]
        assert found.shapes["2"] == (4, *[length] * d)
        assert found.shapes["4"] == (6, *[length // 2] * d)

    def test_even_kernels_grow_the_maps(self):
        def layer(i: int) -> tuple[nn.Module, ...]:
            return nn.Conv1d(i, 4, 16, padding=8), nn.ReLU()

        pool = nn.MaxPool1d(2)
        network = [*layer(1), *layer(4), pool, *layer(4), *layer(4), nn.MaxPool1d(2), *layer(4)]
        assert self.find(*network, *head(4, 1), x=torch.randn(1, 1, 200)) == ["3", "8", "11"]

    @pytest.mark.parametrize(
        ("before", "after", "halved"),
        [
            (2, 1, True),
            (3, 2, True),
            (4, 3, False),
            (5, 3, True),
            (6, 4, False),
            (20, 13, True),
            (20, 14, False),
        ],
    )
    def test_a_side_is_halved_where_it_is_half_rounded_up_or_little_more(
        self, before, after, halved
    ):
        network = conv(2, 4), nn.ReLU(), nn.AdaptiveAvgPool2d((7, after)), conv(4, 4), nn.ReLU()
        x = torch.randn(2, 2, 7, before)
        assert self.find(*network, *head(4), x=x) == (["1", "4"] if halved else ["4"])

    def test_one_side_is_halved(self):
        network = stage(3, 4), nn.MaxPool2d((2, 1)), stage(4, 4), nn.MaxPool2d((1, 2)), stage(4, 4)
        assert self.find(*network, *head(4)) == ["0", "2", "4"]


class TestFindLayers:
    def test_prints_a_table(self):
        found = find_layers(nn.Sequential(stage(3, 4), *head(4)), X)
        assert str(found) == "0      4 channels  32x32"
        assert found.shapes == {"0": (4, 32, 32)}

    def test_feeds_hrcam(self):
        model = Lines()
        assert list(HRCAM(model, find_layers(model, X)).layers) == ["conv1", "conv2", "conv3"]

    def test_compiled_model_is_unwrapped(self):
        assert find_layers(torch.compile(Lines()), X) == ["conv1", "conv2", "conv3"]

    @pytest.mark.parametrize(
        ("inputs", "error", "message"),
        [
            ("image", TypeError, "example_inputs: got str"),
            ([X], TypeError, "example_inputs: got list"),
            (None, TypeError, "example_inputs: got NoneType"),
            ((), ValueError, "got an empty tuple"),
            (("a", 1), ValueError, "got 'str', 'int'"),
            (torch.zeros(2, 3), ValueError, r"got \(2, 3\)"),
            (torch.zeros(0, 3, 8, 8), ValueError, "not empty"),
            (torch.zeros(2, 8), ValueError, r"got \(2, 8\), .* model\(x\[:, 0\]\)"),
        ],
    )
    def test_example_inputs_refused(self, inputs, error, message):
        with pytest.raises(error, match=message):
            find_layers(Lines(), inputs)

    def test_an_image_alone_is_told(self):
        message = r"example_inputs: got shape \(3, 32, 32\), on which .*image\[None\]"
        with pytest.raises(ValueError, match=message):
            find_layers(get_model("resnet18", weights=None), X[0])

    def test_model_refused(self):
        with pytest.raises(TypeError, match="model: got function"):
            find_layers(channels_last, X)
        with pytest.raises(ValueError, match=r"model\.module"):
            find_layers(nn.DataParallel(Lines()), X)

    @pytest.mark.parametrize(
        ("model", "message"),
        [
            (nn.Sequential(nn.Flatten(), nn.Linear(3072, 3)), "as the input, 2. Name the layers"),
            (Twice(), "as the input, 2; 1 run several times, as 'shared'. .* explain one of them"),
            (torch.jit.script(stage(3, 4)), "model is a scripted or traced module"),
        ],
    )
    def test_no_layer_found(self, model, message):
        with pytest.raises(ValueError, match=message):
            find_layers(model, X)

    @pytest.mark.parametrize(("model", "images"), [(swin, X), (Signals, torch.randn(2, 2, 40))])
    def test_channels_last_are_refused(self, model, images):
        with pytest.raises(ValueError, match=r"no layer.*channels that come last.*reshape"):
            find_layers(model(), images)
        assert find_layers(model(), images, reshape_transform=channels_last)

    def test_tokens_without_a_transform_are_warned_of(self):
        vit = VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=3)
        told = r"'encoder' gives \(N, 17, 16\).*reshape_transform"
        with pytest.warns(UserWarning, match=told) as warned:
            assert find_layers(vit, X) == ["conv_proj"]
        assert [w.filename for w in warned] == [__file__]  # of who called it

    def test_channels_last_among_others_are_passed_over(self):
        """By a linear layer at each pixel, after convolutions whose channels come first."""
        per_pixel = nn.Sequential(Move(1, -1), nn.Linear(4, 5), Move(-1, 1))
        assert find_layers(nn.Sequential(stage(3, 4), per_pixel[:2], Move(-1, 1), *head(5)), X) == [
            "0"
        ]
        assert find_layers(nn.Sequential(stage(3, 4), per_pixel, *head(5)), X) == ["1"]

    def test_norms_over_the_last_axis_of_convolutions_are_no_channels(self):
        block = nn.Sequential(conv(2, 4, 1), nn.LayerNorm(40))
        assert find_layers(nn.Sequential(block, *head(4, 1)), torch.randn(2, 2, 40)) == ["0"]

    def test_as_many_concatenated_channels_as_the_map_is_wide(self):
        """A DenseNet with squeeze and excitation: 32 new channels of 32 x 32."""
        model = nn.Sequential(nn.Conv2d(3, 32, 3, 2, 1), nn.Sequential(Excited(32, 32)), *head(64))
        assert find_layers(model, torch.randn(2, 3, 64, 64)) == ["1"]

    def test_layers_of_any_make(self):
        """Whose attributes are called as torch's, and hold something else."""
        model = Lines()
        model.conv1.out_channels, model.conv2.normalized_shape = [3, 4], 4
        model.unused = nn.LazyLinear(3)  # without a size
        assert find_layers(model, X) == ["conv1", "conv2", "conv3"]

    @pytest.mark.parametrize("fails", [False, True])
    def test_model_is_left_as_it_was(self, fails):
        class Noisy(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                if fails:
                    raise RuntimeError("out of memory")
                return x + torch.rand_like(x)

        model = nn.Sequential(stage(3, 4), stage(4, 4), Noisy(), *head(4))
        model[1].eval()
        modes = [m.training for m in model.modules()]
        state = {key: value.clone() for key, value in model.state_dict().items()}
        random_state = torch.get_rng_state()
        if fails:
            with pytest.raises(RuntimeError, match="out of memory"):
                find_layers(model, X)
        else:
            assert find_layers(model, X)
        assert [m.training for m in model.modules()] == modes
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
        assert torch.equal(torch.get_rng_state(), random_state)
        for key, value in model.state_dict().items():
            assert torch.equal(value, state[key]), key
        assert torch.is_grad_enabled()
