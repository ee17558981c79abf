"""What a case browser shows of one image, and how it is collected from methods."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from captum_hrcam.attribution import HeadAttribution
from captum_hrcam.compare import Methods, compare
from captum_hrcam.visualize.panels import (
    FEWER_AXES,
    Array,
    ImageLike,
    array,
    one_for_each,
    planes,
    to_numpy,
)

SLICES = "Of a volume draw slices_figure, or make a Case of each slice."


@dataclass(frozen=True, eq=False)
class Case:
    r"""
    One image of :func:`~captum_hrcam.visualize.case_browser`: maps and scores for K classes.

    A map may have any size; it covers the image from edge to edge.

    Args:
        image (Tensor or ndarray): (C, H, W), one or three channels.
        layer_maps (dict): {layer: (K, h, w)}, HR-CAM's, shallow to deep, as
            :meth:`~captum_hrcam.HRCAM.native_maps` gives them for one image. Upsampled and added
            up, they are HR-CAM's map.
        maps (dict): {method: (K, h, w)}, other methods'.
        scores (Tensor, ndarray or sequence): (K,), the number shown at each class; None shows none.
        mask (Tensor or ndarray): (H, W) or (1, H, W), outlined where it is above zero.
        title (str): what to call the image.
        bias (Tensor, ndarray or sequence): (K,), HR-CAM's bias, shown below its layers' means;
            together they add up to the score. None shows none.

    Raises:
        ValueError: shapes that do not fit each other, no layer, NaN or infinity.

    Examples::

        >>> import torch
        >>> layer_maps = {"early": torch.randn(2, 16, 16), "late": torch.randn(2, 4, 4)}
        >>> case = Case(torch.rand(1, 32, 32), layer_maps, scores=[-0.5, 0.5], title="a lesion")
        >>> case.n_classes
        2
    """

    image: ImageLike
    layer_maps: Mapping[str, ImageLike]
    maps: Mapping[str, ImageLike] = field(default_factory=dict)
    scores: ImageLike | Sequence[float] | None = None
    mask: ImageLike | None = None
    title: str = ""
    bias: ImageLike | Sequence[float] | None = None

    def __post_init__(self) -> None:
        image = _pictures("image", self.image, 3)
        if not self.layer_maps:
            raise ValueError("layer_maps: got no layer, expected one or more. Use native_maps.")
        for argument, maps in (("layer_maps", self.layer_maps), ("maps", self.maps)):
            for name, a in maps.items():
                self._for_each_class(f"{argument}[{name!r}]", array(argument, a, 3, remedy=SLICES))
        for argument, given in (("scores", self.scores), ("bias", self.bias)):
            if given is not None:
                values = array(argument, to_numpy(given), 1, remedy="Pass one for each class.")
                self._for_each_class(argument, values)
        if self.mask is not None:
            planes("mask", self.mask[None], 1, image.shape[1:])

    @property
    def n_classes(self) -> int:
        """K."""
        return len(next(iter(self.layer_maps.values())))

    def _for_each_class(self, argument: str, values: Array) -> None:
        if len(values) != self.n_classes:
            raise ValueError(
                f"{argument}: got shape {values.shape}, expected {self.n_classes} first, one for "
                "each class that the first layer has a map of."
            )


def collect_cases(
    hrcam: HeadAttribution,
    images: Tensor,
    *,
    targets: Sequence[int] | None = None,
    methods: Methods = (),
    shown: ImageLike | None = None,
    scores: Tensor | None = None,
    masks: ImageLike | None = None,
    titles: Sequence[str] | None = None,
    additional_forward_args: object = None,
    fusion: str = "sum",
) -> list[Case]:
    r"""
    Collect the cases of a batch of images: HR-CAM's layers, other methods' maps, the head's scores.

    Every method runs once for each class. Collect larger data batch by batch:
    ``cases += collect_cases(...)``.

    Args:
        hrcam (HRCAM): fitted.
        images (Tensor): (N, C, H, W), as the model takes them.
        targets (sequence of int): the K classes to browse. By default all of the head's.
        methods (dict, list, or one): other attributions, as :func:`~captum_hrcam.compare` takes
            them.
        shown (Tensor or ndarray): (N, 1 or 3, H, W), the pictures to show. By default ``images``;
            pass the images before normalisation, or one of many channels.
        scores (Tensor): (N, K), shown at the classes, such as probabilities. By default the head's.
        masks (Tensor or ndarray): (N, H, W) or (N, 1, H, W), of the pictures' size.
        titles (sequence of str): one for each image.
        additional_forward_args (Any): passed to the model after the images.
        fusion (str): HR-CAM's fusion, as in :meth:`~captum_hrcam.HRCAM.attribute`. With "sum", zero
            adds nothing to the score; with "evidence" and "agreement", zero is what is ordinary in
            the training data. "agreement" is not a sum, so it gives one map of all layers.

    Returns:
        *list*: a :class:`Case` for each image.

    Raises:
        AssertionError: Captum's, for a target out of range.
        ValueError: shapes that do not fit; no target; an unknown fusion.

    Examples::

        >>> import torch
        >>> from torch import nn
        >>> from captum.attr import LayerGradCam
        >>> from captum_hrcam import CAM, HRCAM
        >>> model = nn.Sequential(
        ...     nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        ...     nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(),
        ...     nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
        >>> images, labels = torch.randn(20, 1, 16, 16), torch.arange(20) % 2
        >>> hrcam = HRCAM(model, ["1", "4"])
        >>> report = hrcam.fit([(images, labels)])
        >>> cases = collect_cases(
        ...     hrcam, images[:3], methods=[CAM(model, "4"), LayerGradCam(model, model[4])])
        >>> len(cases), {name: tuple(a.shape) for name, a in cases[0].layer_maps.items()}
        (3, {'1': (2, 16, 16), '4': (2, 8, 8)})
        >>> list(cases[0].maps)
        ['CAM', 'Grad-CAM']
    """
    pictures = _pictures(*(("images", images) if shown is None else ("shown", shown)), 4)
    n, size = len(images), pictures.shape[2:]
    if len(pictures) != n:
        raise ValueError(f"shown: got {len(pictures)} pictures of {n} images, expected as many.")
    chosen = list(range(len(hrcam.bias)) if targets is None else targets)
    if not chosen:
        raise ValueError("targets: got none, expected one class or more.")
    edges = [None] * n if masks is None else planes("masks", masks, n, size)
    one_for_each("titles", titles, n, "images")
    if scores is not None and tuple(scores.shape) != (n, len(chosen)):
        raise ValueError(
            f"scores: got shape {tuple(scores.shape)}, expected ({n}, {len(chosen)}), a number for "
            "each image and target."
        )

    layers = [_layers(hrcam, images, c, additional_forward_args, fusion) for c in chosen]
    others = [compare(methods, images, c, additional_forward_args) for c in chosen if methods]
    layer_maps, maps = _by_image(layers, n), _by_image(others, n)
    if scores is None:
        scores = hrcam.predict(images, additional_forward_args)[:, chosen]
    bias = hrcam.bias[chosen] if fusion == "sum" else None
    return [
        Case(pictures[i], layer_maps[i], maps[i], scores[i].tolist(), edges[i], title, bias)
        for i, title in enumerate(titles or [""] * n)
    ]


def _layers(
    hrcam: HeadAttribution, images: Tensor, target: int, args: object, fusion: str
) -> Mapping[str, Tensor]:
    """The maps that the browser adds up to HR-CAM's map."""
    if fusion == "agreement":
        return {"all, agreement": hrcam.attribute(images, target, args, fusion=fusion)}
    return hrcam.native_maps(images, target, args, fusion=fusion)


def _pictures(argument: str, values: ImageLike, ndim: int) -> Array:
    """(..., C, H, W), with one or three channels, which can be shown."""
    pictures = array(argument, values, ndim, remedy=SLICES, of_fewer=FEWER_AXES)
    if pictures.shape[-3] not in (1, 3):
        raise ValueError(
            f"{argument}: got shape {pictures.shape}, expected 1 or 3 channels. Choose those to be "
            "shown; collect_cases takes them as shown=."
        )
    return pictures


def _by_image(maps: Sequence[Mapping[str, Tensor]], n: int) -> list[dict[str, Tensor]]:
    """{name: (N, 1, h, w)} for each class -> {name: (K, h, w)} for each image."""
    names = maps[0] if maps else ()
    joined = {name: torch.cat([of_class[name].cpu() for of_class in maps], 1) for name in names}
    return [{name: a[i] for name, a in joined.items()} for i in range(n)]
