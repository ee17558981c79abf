"""How far any linear head could go: one fitted on the masks themselves."""

import torch
import torch.nn.functional as F
from peers import Attribute
from torch import Tensor, nn

IMAGES = 400


def mask_fitted(model: nn.Module, layers: dict[str, nn.Module], data) -> Attribute:
    """Each layer solved towards the masks of training images, W = (S + diag S)^-1 Cov(f, mask).

    The solve is the one of the library's cascade, the target is the truth. The layers' standardised
    maps are added with equal weight. No method may do this; it bounds what a linear head can show.
    """
    x, y, masks = data.x[:IMAGES], data.y[:IMAGES], data.masks[:IMAGES, None].float()
    k = int(data.y.max()) + 1
    hot = F.one_hot(y, k).float()[:, :, None, None]
    heads, means = {}, {}
    for name, f in _features(model, layers, x).items():
        target = hot * F.adaptive_avg_pool2d(masks, f.shape[2:])  # 0 where the class is not
        rows, t = (v.transpose(0, 1).flatten(1).double() for v in (f, target))  # (C, n h w)
        means[name] = rows.mean(1)
        rows, t = rows - rows.mean(1, keepdim=True), t - t.mean(1, keepdim=True)
        s = rows @ rows.T / rows.shape[1]
        shrunk = s + torch.diag(s.diagonal().clamp(min=1e-8 * s.max().item()))
        w = torch.linalg.solve(shrunk, rows @ t.T / rows.shape[1]).T  # (K, C)
        heads[name] = w / torch.einsum("kc,cd,kd->k", w, s, w).sqrt()[:, None]

    def attribute(images: Tensor, classes: Tensor) -> Tensor:
        total = torch.zeros(len(images), 1, *images.shape[2:])
        for name, f in _features(model, layers, images).items():
            centred = f - means[name].float()[:, None, None]
            a = torch.einsum("nc,nchw->nhw", heads[name][classes].float(), centred)[:, None]
            total += F.interpolate(a, images.shape[2:], mode="bilinear")
        return total

    return attribute


@torch.no_grad()
def _features(model: nn.Module, layers: dict[str, nn.Module], x: Tensor) -> dict[str, Tensor]:
    """{layer: (n, C, h, w)} of all images at once."""
    found: dict[str, list[Tensor]] = {name: [] for name in layers}
    hooks = [
        module.register_forward_hook(lambda _, __, f, name=name: found[name].append(f.clone()))
        for name, module in layers.items()
    ]
    for batch in x.split(50):
        model(batch)
    for hook in hooks:
        hook.remove()
    return {name: torch.cat(parts) for name, parts in found.items()}
