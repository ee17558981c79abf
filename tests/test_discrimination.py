"""How well scores tell classes: against scikit-learn, and against what a guess does."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from sklearn.metrics import roc_auc_score
from torch import nn

from captum_hrcam.discrimination import are_probabilities, auroc, by_chance, by_class, odds

SCORES = torch.randn(80, 3, generator=torch.Generator().manual_seed(0)).double()


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
    generator = torch.Generator().manual_seed(1)
    head = torch.randn(80, 2, generator=generator).double().round(decimals=1)  # with ties
    y = (torch.rand(80, 2, generator=generator) > 0.5).double()
    apart = [roc_auc_score(y[:, k], head[:, k]) for k in range(2)]
    assert by_class(head, y, "binary_cross_entropy").tolist() == pytest.approx(apart)
    hot = nn.functional.one_hot(y[:, 1].long()).double()
    together = roc_auc_score(y[:, 1], head[:, 1] - head[:, 0])
    assert by_class(head, hot, "cross_entropy").tolist() == pytest.approx([together] * 2)


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


def test_a_guess_hardly_exceeds_what_is_said_of_chance():
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(200, 300, generator=generator) < 0.1
    scores = torch.randn(200, 300, generator=generator).double()
    y, loss = truth.double(), "binary_cross_entropy"
    exceeds = (by_class(scores, y, loss) > by_chance(y, loss)).double().mean()
    assert 0.01 < exceeds < 0.09  # of 300 labels; one of twenty


def test_chance_is_1_7_standard_errors_of_a_guess():
    places = np.array(list(itertools.combinations(range(20), 10)))  # all orders of the scores
    areas = (places.sum(1) - sum(range(10))) / 100
    y = (torch.arange(20) < 10).double()[:, None]
    of_area = by_chance(y, "binary_cross_entropy")
    assert of_area.tolist() == pytest.approx([0.5 + 1.7 * areas.std()])
    assert by_chance(y[:10], "mse").tolist() == pytest.approx([1.7 / 10**0.5])  # a correlation


def test_nine_images_with_a_class_or_without_it_are_not_judged():
    y, loss = (torch.arange(30) < 9).double()[:, None], "binary_cross_entropy"
    for rows, of in ((y, loss), (1 - y, loss), (y[:9], "mse")):
        assert by_chance(rows, of).isnan().all()


@pytest.mark.parametrize(
    ("loss", "outputs", "expected"),
    [
        ("cross_entropy", softmax(SCORES, 1), True),
        ("cross_entropy", SCORES.softmax(1).bfloat16().float().numpy(), True),
        ("cross_entropy", log_softmax(SCORES, 1), False),
        ("cross_entropy", np.full((80, 3), 0.34), False),  # which add up to 1.02
        ("binary_cross_entropy", SCORES.sigmoid().numpy(), True),
        ("binary_cross_entropy", (SCORES > 0).double().numpy(), True),  # sure of all
        ("binary_cross_entropy", 0.5 + 1e-3 * SCORES.sigmoid().numpy(), False),  # logits
        ("binary_cross_entropy", 0.8 * SCORES.sigmoid().numpy(), False),
        ("binary_cross_entropy", 0.2 + 0.8 * SCORES.sigmoid().numpy(), False),
        ("binary_cross_entropy", 2 * SCORES.sigmoid().numpy(), False),
        ("binary_cross_entropy", SCORES.numpy(), False),
        ("mse", SCORES.sigmoid().numpy(), False),
    ],
)
def test_knows_probabilities_from_scores(loss, outputs, expected):
    assert are_probabilities(torch.as_tensor(outputs).double(), loss) == expected
