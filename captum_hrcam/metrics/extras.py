"""The packages of the extra ``eval``, imported when they are first needed."""

from importlib import import_module
from types import ModuleType


def require(name: str) -> ModuleType:
    """The module ``name``, or an ImportError that says what to install.

    Args:
        name: a module of scikit-learn, scipy or pandas.

    Raises:
        ImportError: the package is not installed.

    Examples::

        >>> require("scipy.ndimage").__name__
        'scipy.ndimage'
    """
    try:
        return import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise ImportError(
            f"this needs the package {package!r}, which is not part of the plain install: "
            'pip install "captum-hrcam[eval]"'
        ) from error
