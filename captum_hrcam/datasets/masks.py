"""A mask transformed as its image is, so that both have one size."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torchvision.tv_tensors import Mask


def transformed(mask: Tensor, mask_transform: Callable[[Any], Any] | None) -> Tensor:
    """Apply ``mask_transform`` to a mask (H, W), and return a plain tensor.

    The transform is given torchvision's ``Mask``, which transforms of ``v2`` resize and crop by the
    nearest neighbour, leaving its values alone.

    Raises:
        TypeError: the transform does not give a tensor.

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
