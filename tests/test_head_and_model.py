"""How head and model do: against scikit-learn and scipy, and what wrong labels look like."""

import itertools
import math

import pytest
import torch
from scipy.special import rel_entr, softmax
from scipy.stats import linregress, pearsonr
from sklearn.metrics import accuracy_score, roc_auc_score
from torch import nn

from captum_hrcam.discrimination import by_chance, odds
from captum_hrcam.head_and_model import FIGURES, agreement_figures, layer_shares


def drawn(n: int = 80, k: int = 3, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """(scores of the head, of the model), alike and both with ties."""
    generator = torch.Generator().manual_seed(seed)
    model = torch.randn(n, k, generator=generator).double()
    head = 0.5 * model + 0.3 * torch.randn(n, k, generator=generator).double()
    return head.round(decimals=1), model.round(decimals=1)


def test_figures_of_classes():
    head, model = drawn()
    y = nn.functional.one_hot(model.argmax(1), 3).double()
    found = agreement_figures(head, y, model, "cross_entropy")
    assert found["agreement"] == accuracy_score(head.argmax(1), model.argmax(1))
    a, b = (s - s.mean(1, keepdim=True) for s in (head, model))
    fits = [linregress(b[:, k], a[:, k]) for k in range(3)]
    centred = [(s - s.mean(0)).flatten() for s in (b, a)]
    assert found["slope"] == pytest.approx(linregress(*centred).slope)
    assert found["r_squared"] == pytest.approx(sum(fit.rvalue**2 for fit in fits) / 3)
    p, q = softmax(model, 1), softmax(head, 1)
    assert found["divergence"] == pytest.approx(rel_entr(p, q).sum(1).mean())
    for name, scores in (("head", head), ("model", model)):
        right = accuracy_score(y.argmax(1), scores.argmax(1))
        assert found[f"{name}_accuracy"] == pytest.approx(right)
        expected = roc_auc_score(y, odds(scores), average="macro")
        assert found[f"{name}_auroc"] == pytest.approx(expected)
    assert found["by_chance"].equal(by_chance(y, "cross_entropy"))
    assert not found["gives_probabilities"]
    found = agreement_figures(head, y, model.softmax(1), "cross_entropy")
    assert found["gives_probabilities"]


def test_labels_are_decided_each_by_itself():
    head, model = drawn()
    y = (model > 0.5).double()
    found = agreement_figures(head, y, model, "binary_cross_entropy")
    assert (head == 0).any()  # as sure of no as of yes: no
    decided, by_model = ((scores > 0).flatten() for scores in (head, model))
    assert found["head_accuracy"] == pytest.approx(accuracy_score(y.flatten(), decided))
    assert found["model_accuracy"] == pytest.approx(accuracy_score(y.flatten(), by_model))
    assert found["agreement"] == pytest.approx(accuracy_score(by_model, decided))


def test_a_model_without_scores_leaves_the_figures_of_the_head():
    head, model = drawn()
    y = nn.functional.one_hot(model.argmax(1), 3).double()
    found = agreement_figures(head, y, torch.zeros(80, 0), "cross_entropy")
    defined = {name for name in FIGURES if found[name] == found[name]}
    assert defined == {"head_accuracy", "head_auroc"}
    assert found["model_by_class"].isnan().tolist() == [True] * 3
    assert not any(found[says] for says in ("has_model", "says_contrary", "gives_probabilities"))


@pytest.mark.parametrize(("k", "loss"), [(2, "cross_entropy"), (3, "cross_entropy"), (2, "mse")])
def test_of_a_softmax_each_score_is_also_judged_alone(k, loss):
    head, model = drawn(k=k)
    truth = nn.functional.one_hot(model.argmax(1), k).double()
    alone = agreement_figures(head, truth, model, loss)["alone_by_class"]
    if loss == "mse":
        assert alone is None
        return
    expected = [roc_auc_score(truth[:, c], head[:, c]) for c in range(k)]
    assert alone.tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("loss", "value"),
    [
        *itertools.product(["cross_entropy", "binary_cross_entropy", "mse"], [math.nan, math.inf]),
        ("mse", -math.inf),  # a class is masked in this way, but no real value
    ],
)
def test_nothing_is_said_of_a_model_that_gives_nan(loss, value):
    head, model = drawn()
    y = nn.functional.one_hot(model.argmax(1), 3).double()
    model[4, 1] = value
    found = agreement_figures(head, y, model, loss)
    assert found["n_broken"] == 1
    assert {name for name in FIGURES if found[name] == found[name]} == (
        set() if loss == "mse" else {"head_accuracy", "head_auroc"}
    )
    assert found["model_by_class"].isnan().all()
    assert not found["says_contrary"]


def test_divergence_of_labels_is_the_sum_over_them():
    head, model = drawn()
    found = agreement_figures(head, (model > 0).double(), model, "binary_cross_entropy")
    p, q = model.sigmoid(), head.sigmoid()
    expected = rel_entr(p, q) + rel_entr(1 - p, 1 - q)
    assert found["divergence"] == pytest.approx(expected.sum(1).mean())


def test_real_values_keep_their_sign():
    head, model = drawn(k=2)
    found = agreement_figures(-1e-6 * head, model, model, "mse")  # of any size
    expected = [pearsonr(-head[:, k], model[:, k]).statistic for k in range(2)]
    assert found["head_by_class"].tolist() == pytest.approx(expected)
    assert (found["head_by_class"] < found["by_chance"]).all()
    assert found["slope"] < 0 < found["r_squared"]
    assert found["says_contrary"]
    assert all(math.isnan(found[f"{whose}_accuracy"]) for whose in ("head", "model"))


@pytest.mark.parametrize(("n", "expected"), [(9, False), (10, True)])
def test_a_few_images_do_not_say_the_contrary(n, expected):
    _, model = drawn(n)
    assert agreement_figures(1e-6 * (9 - model), model, model, "mse")["says_contrary"] == expected


def test_an_output_that_hardly_varies_does_not_decide_the_slope():
    head, model = drawn(k=5)
    model[:, 4] = -9 + 1e-6 * model[:, 4]
    found = agreement_figures(head, (model > 0).double(), model, "binary_cross_entropy")
    assert found["slope"] == pytest.approx(0.5, abs=0.1)
    noise, other = drawn(seed=1)[0], drawn(seed=2)[1]
    found = agreement_figures(noise, (other > 0).double(), other, "binary_cross_entropy")
    assert not found["says_contrary"]


def test_a_masked_class_adds_nothing_to_the_divergence():
    head, model = drawn()
    y = nn.functional.one_hot(model[:, :2].argmax(1), 3).double()
    model[:, 2] = -torch.inf
    found = agreement_figures(head, y, model, "cross_entropy")
    expected = rel_entr(softmax(model, 1), softmax(head, 1)).sum(1).mean()
    assert found["divergence"] == pytest.approx(expected)


def test_a_head_that_says_nothing_has_no_slope():
    _, model = drawn()
    found = agreement_figures(torch.zeros_like(model), model, model, "mse")
    assert found["slope"] == found["r_squared"] == 0
    assert not found["says_contrary"]


def test_one_image_tells_no_agreement():
    one = torch.ones(1, 3).double()
    found = agreement_figures(one, one, one, "mse")
    assert all(math.isnan(found[name]) for name in ("r_squared", "slope"))
    assert found["head_by_class"].isnan().tolist() == [True] * 3


def test_a_layer_that_says_nothing_has_no_share():
    a = 1e-3 * torch.tensor([1.0, 1.0, 0.0]) * torch.randn(50, 3).double()  # nor has a score
    shares = layer_shares({"a": a, "b": torch.ones(50, 3).double()})
    assert shares["a"].tolist() == pytest.approx([1, 1, 0])
    assert shares["b"].tolist() == pytest.approx([0, 0, 0])
