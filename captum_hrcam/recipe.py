"""How a head is to be solved: the options of a fit, checked before any work."""

from dataclasses import dataclass, replace

from captum_hrcam import group
from captum_hrcam.checks import is_number, one_of, positive, whole
from captum_hrcam.labels import LOSSES

SOLVERS = ("auto", "pattern", "ridge", "cascade", "adam")
BALANCES = ("auto", "equal", "information", None)


@dataclass(frozen=True)
class Recipe:
    """How a head is to be solved; unknown or contradictory options are refused.

    Args: as in ``HRCAM.fit``.
    """

    loss: str = "cross_entropy"
    solver: str = "auto"
    penalty: float | str = "auto"
    balance_layers: str | None = "auto"
    standardize: bool = True
    epochs: int = 100
    batch_size: int = 32
    lr: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        one_of("loss", self.loss, LOSSES)
        one_of("solver", self.solver, SOLVERS)
        one_of("balance_layers", self.balance_layers, BALANCES)
        self._check_penalty()
        if self.solver in ("adam", "cascade") and self.balance_layers not in ("auto", None):
            raise ValueError(
                f"balance_layers: got {self.balance_layers!r} with solver={self.solver!r}, whose "
                "layers are balanced as they are. Use solver='pattern' or 'ridge'."
            )
        if self.solver == "cascade" and self.loss == "mse":
            raise ValueError(
                "loss: got 'mse' with solver='cascade', which learns where a class is. Use "
                "solver='pattern' or 'ridge'."
            )
        if self.solver == "adam" and group.size() > 1:
            raise ValueError(
                f"solver: got 'adam' in a group of {group.size()} ranks; its steps follow one "
                "another over all images. Use solver='pattern', 'cascade' or 'ridge'."
            )
        whole("epochs", self.epochs, 1)
        whole("batch_size", self.batch_size, 1)
        whole("seed", self.seed, 0)
        positive("lr", self.lr)

    def _check_penalty(self) -> None:
        if self.penalty == "auto":
            return
        if not is_number(self.penalty) or not 0 <= self.penalty < float("inf"):
            raise ValueError(
                f"penalty: got {self.penalty!r}, expected 'auto' or a finite number >= 0."
            )
        if self.solver not in ("auto", "ridge"):
            raise ValueError(
                f"penalty: got {self.penalty!r} with solver={self.solver!r}, which has none. Use "
                "solver='ridge' or leave penalty='auto'."
            )

    @property
    def needs_all_rows(self) -> bool:
        """Whether every image's features are kept; other solvers need only moments and a sample."""
        return self.solver in ("ridge", "adam")

    def candidates(self) -> list["Recipe"]:
        """The recipes to choose between; only one unless solver is "auto".

        The first is kept if the evidence does not decide. A cascade comes first, as it also
        decides which layers the other recipes leave out (``fit_head``).
        """
        if self.solver != "auto":
            return [self]
        if self.penalty != "auto":
            return [replace(self, solver="ridge")]  # the one that has a penalty
        pattern = replace(self, solver="pattern")
        if self.loss == "mse" or self.balance_layers != "auto":
            return [pattern]  # a cascade needs classes, and is balanced as it is
        return [replace(self, solver="cascade"), pattern]
