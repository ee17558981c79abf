"""The only door to Captum's private names: if Captum renames one, mend it here."""

from captum._utils.common import (
    _format_additional_forward_args as format_additional_forward_args,
)
from captum._utils.common import _format_output as format_output
from captum._utils.common import _format_tensor_into_tuples as format_tensor_into_tuples
from captum._utils.common import _select_targets as select_targets
from captum._utils.typing import TargetType

__all__ = [
    "TargetType",
    "format_additional_forward_args",
    "format_output",
    "format_tensor_into_tuples",
    "select_targets",
]
