"""What a fit settles on held-out images before it solves, and whether the report says so."""

import pytest
import torch
from bars import LAYERS, Bars, bars
from conftest import fit_quietly

from captum_hrcam import HRCAM


@pytest.mark.parametrize("balance", [None, "equal", "information"])
def test_balance_layers_is_reported(balance):
    x, hot = bars()
    report = HRCAM(Bars(), LAYERS).fit([(x, hot)], solver="pattern", balance_layers=balance)
    assert report.balance_layers == balance
    assert ("each layer alone tells" in str(report)) == (balance == "information")


@pytest.mark.parametrize("solver", ["pattern", "ridge"])
def test_real_values_may_come_in_any_unit(solver):
    x, _ = bars()
    generator = torch.Generator().manual_seed(3)
    y = x.mean((2, 3))[:, :2] + 0.3 * torch.randn(200, 2, generator=generator)
    units = torch.tensor([1e5, 1e-6])

    def weights(y: torch.Tensor) -> dict[str, torch.Tensor]:
        return fit_quietly(HRCAM(Bars(), LAYERS), [(x, y)], loss="mse", solver=solver).weights

    for one, other in zip(weights(y).values(), weights(y * units).values(), strict=True):
        atol = 1e-3 * one.abs().max().item()
        torch.testing.assert_close(other / units[:, None], one, rtol=0, atol=atol)
