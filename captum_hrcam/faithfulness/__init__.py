r"""Does a map show what the model uses? These figures need the model, but no mask.

Each figure takes ``(forward_func, inputs, maps, target)``, the maps (N, 1, \*spatial) as
:func:`~captum_hrcam.compare` gives them, and returns (N,) float64. ``sensitivity_max`` and
``randomization`` make the maps themselves. Whatever else the model takes, such as a table with one
row for each image, is passed to each as ``additional_forward_args``.

Examples::

    >>> import torch
    >>> from functools import partial
    >>> figures = {"deletion": partial(deletion, torch.nn.Flatten())}
    >>> x = torch.randn(4, 1, 8, 8)
    >>> figures["deletion"](x, x, 3).shape
    (4,)
"""

from captum_hrcam.faithfulness.captum_metrics import infidelity, sensitivity_max
from captum_hrcam.faithfulness.curves import deletion, insertion
from captum_hrcam.faithfulness.heads import head_kept, head_refitted
from captum_hrcam.faithfulness.randomization import randomization
from captum_hrcam.faithfulness.road import road
from captum_hrcam.faithfulness.similarity import rank_correlation, ssim

__all__ = [
    "deletion",
    "head_kept",
    "head_refitted",
    "infidelity",
    "insertion",
    "randomization",
    "rank_correlation",
    "road",
    "sensitivity_max",
    "ssim",
]
