"""A fitted head on new data: its figures are those of the maps, and it says where it fails."""

import warnings

import pytest
import torch
from conftest import BY_NAME, State, fit_quietly, fitted
from sklearn.metrics import roc_auc_score
from torch import nn

from captum_hrcam import HRCAM, HeadReport

CASE = BY_NAME["vgg2d"]


def new_images(n: int = 30) -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.randn(n, 2, *CASE.size, generator=torch.Generator().manual_seed(7))
    return images, torch.arange(n) % 3


def test_figures_are_those_of_predict():
    hrcam = fitted(CASE)
    x, y = new_images()
    with pytest.warns(UserWarning, match="agree"):
        report = hrcam.check([(x[:7], y[:7]), (x[7:], y[7:])])
    scores = hrcam.predict(x)
    assert report.n == report.n_figures == 30
    assert report.class_counts.tolist() == [10, 10, 10]
    assert report.head_accuracy == pytest.approx((scores.argmax(1) == y).double().mean().item())
    odds = scores.double().softmax(1)
    expected = [roc_auc_score(y == k, odds[:, k]) for k in range(3)]
    assert report.head_auroc == pytest.approx(sum(expected) / 3)
    outputs = CASE.model().eval()(x)
    agreed = (outputs.argmax(1) == scores.argmax(1)).double().mean().item()
    assert report.agreement == pytest.approx(agreed)
    torch.testing.assert_close(sum(report.shares.values()), torch.ones(3).double())
    assert "accuracy" in str(report)


def test_needs_no_labels_and_leaves_the_fit_alone():
    hrcam = fitted(CASE)
    head, fit_report = hrcam.head, hrcam.report
    state = State(hrcam.forward_func)
    with pytest.warns(UserWarning, match="agree on"):
        report = hrcam.check([new_images()[0]], targets="model")
    state.assert_unchanged()
    assert isinstance(report, HeadReport)
    assert report.model_accuracy == 1.0
    assert hrcam.head is head
    assert hrcam.report is fit_report


def test_works_on_a_loaded_head(tmp_path):
    hrcam = fitted(CASE)
    hrcam.save(tmp_path / "head.pt")
    loaded = HRCAM.load(tmp_path / "head.pt", CASE.model())
    with pytest.warns(UserWarning, match="agree on"):
        here, there = (h.check([new_images()]) for h in (hrcam, loaded))
    assert here.head_auroc == there.head_auroc


@pytest.mark.parametrize("loss", ["binary_cross_entropy", "mse"])
def test_the_loss_is_that_of_the_fit_also_in_a_file(tmp_path, loss):
    """Else a softmax would be taken of findings that do not exclude each other."""
    model, (x, y) = CASE.model(), new_images()
    rows = torch.nn.functional.one_hot(y, 3).float()  # which pass for classes, too
    hrcam = fit_quietly(HRCAM(model, CASE.layers), [(x, rows)], loss=loss, solver="pattern")
    hrcam.save(tmp_path / "head.pt")
    loaded = HRCAM.load(tmp_path / "head.pt", model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for targets in ("labels", "model"):
            told = str(hrcam.check([(x, rows)], targets=targets, loss=loss))
            assert told != str(hrcam.check([(x, rows)], targets=targets, loss="cross_entropy"))
            assert str(hrcam.check([(x, rows)], targets=targets)) == told
            assert str(loaded.check([(x, rows)], targets=targets)) == told


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": "masks"}, "targets: got 'masks', expected"),
        ({"loss": "hinge"}, "loss: got 'hinge', expected"),
        ({"data": []}, "data: it gave no batch"),
        ({"data": [(new_images()[0], torch.full((30,), 3))]}, r"labels: 3 is outside 0\.\.2"),
        ({"data": [(torch.full((5, 2, 8, 8), torch.nan), torch.arange(5) % 3)]}, "data: NaN or"),
    ],
)
def test_refuses_bad_input(options, message):
    options = {"data": [new_images()]} | options
    with pytest.raises(ValueError, match=message):
        fitted(CASE).check(options.pop("data"), **options)


def test_refuses_another_model_than_the_head_was_fitted_on():
    hrcam = fitted(CASE)
    hrcam.layers["stage1"][0] = nn.Conv2d(2, 5, 3)
    with pytest.raises(ValueError, match="'stage1' gave 5 channels, but the head has weights for"):
        hrcam.check([new_images()])


def test_needs_a_head():
    with pytest.raises(RuntimeError, match="no head yet"):
        HRCAM(CASE.model(), CASE.layers).check([new_images()])


def head_report(kind: type[HeadReport] = HeadReport, **changes: object) -> HeadReport:
    """Of a head that nothing is wrong with, but for ``changes``."""
    figures = dict.fromkeys(("head_accuracy", "model_accuracy", "model_auroc"), 0.95)
    figures |= {"head_auroc": 0.97, "agreement": 0.97, "r_squared": 0.8, "n_figures": 100}
    figures |= {
        "slope": 0.9,
        "divergence": 0.1,
        "gives_probabilities": False,
        "has_model": True,
        "says_contrary": False,
    }
    figures |= {"head_by_class": torch.tensor([0.97, 0.97]), "by_chance": torch.tensor([0.6, 0.6])}
    figures |= {"model_by_class": torch.tensor([0.95, torch.nan])}
    given = {
        "n": 100,
        "class_counts": torch.tensor([50.0, 50.0]),
        "channels": {"first": 4, "last": 8},
        "resolutions": {"first": (28, 28), "last": (7, 7)},
        "shares": {"first": torch.tensor([0.4, 0.4]), "last": torch.tensor([0.6, 0.6])},
        "figures_from": "all of them",
    }
    return kind(**(given | figures | changes))


def lost(k: int) -> dict[str, torch.Tensor]:
    """Of k classes none that the head knows."""
    figures = {"head_by_class": 0.5, "by_chance": 0.6, "model_by_class": 0.9}
    return {name: torch.full((k,), value) for name, value in figures.items()}


def test_figures_against_the_model_itself_say_so():
    told = "the model's own outputs taken for the truth"
    assert told in str(head_report(targets="model"))
    assert told not in str(head_report())


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, None),
        ({"agreement": 0.6}, "agree on only 60.0% of their decisions: the map explains the head"),
        ({"agreement": 0.89}, "agree on only 89.0%"),
        (
            {"agreement": 0.89, "r_squared": 0.89},
            "More layers may help, or targets='model' where the model does not follow the labels.",
        ),
        ({"agreement": 0.89, "targets": "model"}, "not the model. More layers may help."),
        ({"r_squared": 0.2, "targets": "model"}, "than the model. More layers may help."),
        (
            {"r_squared": 0.2, "class_counts": None},
            "may help, or solver='ridge', or targets='model' where",
        ),
        ({"agreement": 0.89, "r_squared": 0.9}, "order the images alike (R^2 0.90)"),
        ({"agreement": 0.9, "r_squared": 0.95}, None),
        ({"r_squared": 0.49}, "R^2 of the head's and the model's scores is 0.49"),
        ({"r_squared": 0.5}, None),
        ({"r_squared": 0.2}, "R^2 of the head's and the model's scores is 0.20"),
        ({"agreement": float("nan"), "r_squared": float("nan")}, None),
        ({"head_auroc": 0.55}, "AUROC is 0.55 on 100 images, no better than chance"),
        ({"head_auroc": 0.65}, None),
        ({"model_auroc": 0.55}, "the model's own AUROC is 0.55 on 100 images, a guess"),
        ({"model_auroc": 0.41}, "a guess. Are its trained weights loaded"),
        (
            {"model_auroc": 0.39},
            "the model's own AUROC is 0.39 on 100 images, so it orders the images the other way "
            "round. Are the labels in the order and of the sign of the model's outputs?",
        ),
        ({"head_auroc": 0.41}, "no better than chance"),
        (
            {"head_auroc": 0.39},
            "the head's AUROC is 0.39 on 100 images, so it orders the images the other way round. "
            "Are the labels in the order and of the sign of those of the fit?",
        ),
        ({"model_auroc": 0.65}, None),
        ({"model_auroc": float("nan")}, None),
        ({"head_auroc": 0.65, "n_figures": 16}, "no better than chance"),
        ({"n_figures": 3, "head_auroc": 1.0, "model_auroc": 1.0}, None),  # of three images
        ({"gives_probabilities": True}, "the model's outputs are probabilities"),
        (
            {"has_model": False, "agreement": float("nan"), "r_squared": float("nan")},
            "the head was compared with nothing. Give HRCAM a function that picks the scores out",
        ),
        (
            {"slope": -0.5, "says_contrary": True},
            "the head's scores fall where the model's rise (slope -0.50)",
        ),
        (
            {"head_by_class": torch.tensor([0.97, 0.5])},
            "class 1: the head's AUROC is 0.50, not clearly better than chance",
        ),
        (  # told once, of all together
            {"head_auroc": 0.55, "head_by_class": torch.tensor([0.55, 0.55])},
            "the head's AUROC is 0.55 on 100 images, no better than chance",
        ),
        (lost(8), "classes 0, 1, 2, 3, 4, 5, 6, 7: the head's AUROC is 0.50 at most"),
        (lost(9), "classes 0, 1, 2, 3, 4, 5, 6, 7, ...: the head's AUROC is 0.50 at most"),
        (
            {"model_by_class": torch.tensor([0.4, 0.5])},
            "classes 0, 1: the model's own AUROC is 0.50 at most, hardly more than a guess.",
        ),
        (
            {"head_by_class": torch.tensor([0.1]), "by_chance": torch.tensor([0.2])}
            | {"class_counts": None, "model_by_class": torch.tensor([0.9])},
            "output 0: the head's correlation with the labels is 0.10, not clearly better than",
        ),
        (
            {"head_by_class": torch.tensor([0.97, 0.3])},
            "class 1: the head's AUROC is 0.30, so it orders the images the other way round.",
        ),
        (
            {"class_counts": None, "by_chance": torch.tensor([0.2, 0.2])}
            | {"model_by_class": torch.tensor([0.9, -0.99])},
            "output 1: the model's own correlation with the labels is -0.99, so it orders the",
        ),
        (
            {"class_counts": torch.tensor([91.0, 9.0])},
            "class 1 has 9 images: its figures here say little",
        ),
        (
            {"class_counts": torch.tensor([3.0, 50.0, 7.0])},
            "each of classes 0, 2 has 3 to 7 images: its figures here say little",
        ),
        (
            {"class_counts": torch.tensor([99.5])},
            "class 0 is not in 0.5 images, by soft labels: its figures",
        ),
        ({"class_counts": torch.tensor([90.0, 10 - 1e-9])}, None),
        (
            {"class_counts": torch.tensor([2.0, 98.0]), "n_passes": 2},
            "class 0 has 1 image: its figures here say little",
        ),
        (
            {"n_broken": 3},
            "the model's output is NaN or infinite for 3 of 100 images, so the head was compared",
        ),
        ({"class_counts": torch.tensor([100.0, 0.0])}, None),  # none here to be judged
        ({"class_counts": None}, None),
        (
            {"shares": {"first": torch.tensor([0.02, 0.1]), "last": torch.tensor([0.98, 0.9])}},
            "'last' carries nearly all of the score (share of its variance 0.94): the "
            "map is hardly finer than its 7x7 cells",
        ),
        ({"shares": {"last": torch.ones(2)}}, None),
    ],
)
def test_warns_of_what_misleads_and_of_nothing_else(changes, expected):
    warnings = head_report(**changes).warnings
    assert len(warnings) == (expected is not None)
    if expected is not None:
        assert expected in warnings[0]
        assert f"warning: {warnings[0]}" in str(head_report(**changes))


def test_what_is_printed():
    assert (
        str(head_report(head_accuracy=0.94, agreement=0.96))
        == """\
HR-CAM head on 100 images
layer  channels  resolution   share of each class's score variance
first         4       28x28    40.0%  40.0%
last          8         7x7    60.0%  60.0%
on all of them:
  accuracy   head 0.940   model 0.950
  AUROC      head 0.970   model 0.950
  head and model agree on 96.0%; log-odds: R^2 0.800, slope 0.90; divergence 0.100"""
    )


def test_of_two_classes_the_score_of_each_alone_is_printed():
    told = str(head_report(alone_by_class=torch.tensor([0.71, 0.49])))
    assert "\n  AUROC of each class's score alone, its map's mean plus bias: 0.710 0.490\n" in told


def test_what_is_printed_of_real_values():
    told = {"head_by_class": torch.tensor([0.9, torch.nan])}  # an output without figure counts not
    assert str(head_report(class_counts=None, **told)).endswith("""
on all of them:
  correlation with the labels   head 0.900   model 0.950
  head and model: R^2 0.800, slope 0.90""")


@pytest.mark.parametrize(("k", "expected"), [(8, " 75.0%\n"), (9, " 75.0% ...\n")])
def test_the_table_shows_eight_classes(k, expected):
    shares = {"first": torch.full((k,), 0.25), "last": torch.full((k,), 0.75)}
    text = str(head_report(shares=shares))
    assert text.count(" 75.0%") == 8
    assert expected in text


def test_undefined_figures_are_dashes():
    text = str(head_report(agreement=float("nan"), r_squared=float("nan")))
    assert "agree on -; log-odds: R^2 -," in text


def test_swapped_classes_are_not_taken_for_a_guess():
    x, _ = new_images(60)
    model = nn.Sequential(CASE.model(), nn.Linear(3, 2)).eval()
    score = (model(x) @ torch.tensor([-1.0, 1.0])).argsort().argsort()  # of class 1, as a rank
    hrcam = fit_quietly(HRCAM(model, "0.stage3"), [(x, (score < 30).long())], solver="pattern")
    told = [w for w in hrcam.report.warnings if "the model's own AUROC" in w]
    assert hrcam.report.model_auroc == 0
    assert len(told) == 1
    assert "the other way round. Are the labels in the order" in told[0]


def test_randomised_labels_are_no_better_than_chance():
    x, y = new_images(60)
    shuffled = y[torch.randperm(60, generator=torch.Generator().manual_seed(0))]
    hrcam = fit_quietly(HRCAM(CASE.model(), CASE.layers), [(x, shuffled)], solver="pattern")
    assert any("no better than chance" in warning for warning in hrcam.report.warnings)
