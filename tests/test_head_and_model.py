"""How head and model do: against scikit-learn and scipy, and what wrong labels look like."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, rel_entr, softmax
from scipy.stats import linregress, pearsonr
from sklearn.metrics import accuracy_score, roc_auc_score
from torch import nn

from captum_hrcam.head_and_model import (
    FIGURES,
    agreement_figures,
    auroc,
    by_class,
    layer_shares,
    odds,
)


def drawn(n: int = 80, k: int = 3, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """(scores of the head, of the model), alike and both with ties."""
    generator = torch.Generator().manual_seed(seed)
    model = torch.randn(n, k, generator=generator).double()
    head = 0.5 * model + 0.3 * torch.randn(n, k, generator=generator).double()
    return head.round(decimals=1), model.round(decimals=1)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_auroc_of_each_class_is_scikit_learns(k):
    generator = torch.Generator().manual_seed(k)
    scores = torch.randint(5, (60, k), generator=generator).double()  # with ties
    truth = torch.randint(2, (60, k), generator=generator).bool()
    expected = [roc_auc_score(t, s) for t, s in zip(truth.T, scores.T, strict=True)]
    assert auroc(scores, truth).tolist() == pytest.approx(expected)


def test_auroc_of_one_kind_is_undefined():
    assert auroc(torch.rand(5, 1), torch.ones(5, 1)).isnan().all()


def test_two_labels_are_judged_apart_and_a_softmax_of_two_by_its_difference():
    head, _ = drawn(k=2)
    y = (torch.rand(80, 2, generator=torch.Generator().manual_seed(1)) > 0.5).double()
    apart = [roc_auc_score(y[:, k], head[:, k]) for k in range(2)]
    assert by_class(head, y, "binary_cross_entropy").tolist() == pytest.approx(apart)
    hot = nn.functional.one_hot(y[:, 1].long()).double()
    together = roc_auc_score(y[:, 1], head[:, 1] - head[:, 0])
    assert by_class(head, hot, "cross_entropy").tolist() == pytest.approx([together] * 2)


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
    assert not found["gives_probabilities"]


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


@pytest.mark.parametrize("k", [2, 3, 5])
def test_a_softmax_is_judged_by_its_probabilities(k):
    generator = torch.Generator().manual_seed(k)
    head, shift = torch.randn(80, k, generator=generator), torch.randn(80, 1, generator=generator)
    y = nn.functional.one_hot(torch.arange(80) % k).double()
    expected = [roc_auc_score(y[:, c], softmax(head.double(), 1)[:, c]) for c in range(k)]
    for given in (head.double(), head.double() + 1e3 * shift):
        assert by_class(given, y, "cross_entropy").tolist() == pytest.approx(expected)


def test_the_odds_of_a_softmax_differ_where_its_probabilities_are_all_1():
    scores = torch.tensor([[60, 0, -torch.inf], [80, 0, 1]], dtype=torch.float64)
    assert (scores.softmax(1)[:, 0] == 1).all()
    found = odds(scores)
    assert found[0].tolist() == [60, -60, -torch.inf]
    assert found[1].tolist() == pytest.approx([80 - math.log1p(math.e), -80, -79])


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


def test_a_guess_hardly_exceeds_what_is_said_of_chance():
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(200, 300, generator=generator) < 0.1
    scores = torch.randn(200, 300, generator=generator).double()
    found = agreement_figures(scores, truth.double(), scores, "binary_cross_entropy")
    exceeds = (found["head_by_class"] > found["by_chance"]).double().mean()
    assert 0.01 < exceeds < 0.09  # of 300 labels; one of twenty


def test_chance_is_1_7_standard_errors_of_a_guess():
    places = np.array(list(itertools.combinations(range(20), 10)))  # all orders of the scores
    areas = (places.sum(1) - sum(range(10))) / 100
    y = (torch.arange(20) < 10).double()[:, None]
    found = agreement_figures(y, y, y, "binary_cross_entropy")
    assert found["by_chance"].tolist() == pytest.approx([0.5 + 1.7 * areas.std()])
    found = agreement_figures(y[:10], y[:10], y[:10], "mse")  # of a correlation
    assert found["by_chance"].tolist() == pytest.approx([1.7 / 10**0.5])


def test_nine_images_with_a_class_or_without_it_are_not_judged():
    y, loss = (torch.arange(30) < 9).double()[:, None], "binary_cross_entropy"
    for rows, of in ((y, loss), (1 - y, loss), (y[:9], "mse")):
        assert agreement_figures(rows, rows, rows, of)["by_chance"].isnan().all()


@pytest.mark.parametrize(
    ("loss", "outputs", "expected"),
    [
        ("cross_entropy", softmax(drawn()[1], 1), True),
        ("cross_entropy", drawn()[1].softmax(1).bfloat16().float().numpy(), True),
        ("cross_entropy", log_softmax(drawn()[1], 1), False),
        ("cross_entropy", np.full((80, 3), 0.34), False),  # which add up to 1.02
        ("binary_cross_entropy", drawn()[1].sigmoid().numpy(), True),
        ("binary_cross_entropy", (drawn()[1] > 0).double().numpy(), True),  # sure of all
        ("binary_cross_entropy", 0.5 + 1e-3 * drawn()[1].sigmoid().numpy(), False),  # logits
        ("binary_cross_entropy", 0.8 * drawn()[1].sigmoid().numpy(), False),
        ("binary_cross_entropy", 0.2 + 0.8 * drawn()[1].sigmoid().numpy(), False),
        ("binary_cross_entropy", 2 * drawn()[1].sigmoid().numpy(), False),
        ("binary_cross_entropy", drawn()[1].numpy(), False),
        ("mse", drawn()[1].sigmoid().numpy(), False),
    ],
)
def test_knows_probabilities_from_scores(loss, outputs, expected):
    head, model = drawn()
    y = nn.functional.one_hot(model.argmax(1), 3).double()
    found = agreement_figures(head, y, torch.as_tensor(outputs), loss)
    assert found["gives_probabilities"] == expected


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
