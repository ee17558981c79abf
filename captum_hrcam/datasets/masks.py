"""A mask brought to the size of its image, as the image's transform brings that."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torchvision.tv_tensors import Mask


def transformed(mask: Tensor, mask_transform: Callable[[Any], Any] | None) -> Tensor:
    """A mask (H, W) as ``mask_transform`` gives it, a plain tensor.

    It comes to the transform as torchvision's ``Mask``: transforms of ``v2`` resize and crop that
    by the nearest neighbour, and leave its values alone.

    Raises:
        TypeError: the transform gives no tensor.

    Examples::

        >>> import torch
        >>> from torchvision.transforms import v2
        >>> to_model = v2.Compose([v2.Resize((2, 2)), v2.ToDtype(torch.float32, scale=True)])
        >>> transformed(torch.arange(16).reshape(4, 4) > 7, to_model)
        tensor([[False, False],
                [ True,  True]])
    """
    if mask_transform is None:
        return mask
    given = mask_transform(Mask(mask))
    if not isinstance(given, Tensor):
        raise TypeError(
            f"mask_transform: gave {type(given).__name__}, expected a tensor (H, W). It is given "
            "one, on which transforms of torchvision.transforms.v2 work."
        )
    return given.as_subclass(Tensor)
