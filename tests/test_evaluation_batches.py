"""The data of an evaluation in every form, and what is refused."""

import numpy as np
import pytest
import torch
from captum.attr import Saliency
from conftest import State
from evaluated import DATA, N, batches, cnn, methods_of, same
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset

from captum_hrcam import CAM, evaluate, metrics
from captum_hrcam.evaluation.batches import masked_batches


@pytest.fixture
def model() -> nn.Sequential:
    return cnn().eval()


def test_batch_size_and_form_of_the_data_do_not_matter(model):
    methods, expected = methods_of(model), evaluate(methods_of(model), DATA, batch_size=N)
    for batch_size in (1, 7):
        same(evaluate(methods, DATA, batch_size=batch_size), expected)
    same(evaluate(methods, iter(batches(5, 1, 6))), expected)
    loader = DataLoader(_WithMasks(), batch_size=4)
    same(evaluate(methods, loader), expected)
    same(evaluate(methods, DataLoader(_OneByOne(), batch_size=4)), expected)
    same(evaluate(methods, [(x, y, m[:, None], k) for x, y, m, k in batches(12)]), expected)


class _WithMasks(Dataset):
    def __len__(self):
        return N

    def __getitem__(self, i):
        return *DATA[i], DATA.mask(i), DATA.kind(i)


class _OneByOne(IterableDataset):
    """Its loader does not know its length."""

    def __iter__(self):
        return map(_WithMasks().__getitem__, range(N))


def test_subset_asks_for_the_masks_of_its_own_items(model):
    lesions = [i for i in range(N) if DATA.kind(i) != "normative"]
    nested = Subset(Subset(DATA, lesions), [4, 0])
    part, all_of = evaluate(CAM(model, "3"), nested), evaluate(CAM(model, "3"), DATA)
    expected = all_of.values("CAM", "pixel AP")[[lesions[4], lesions[0]]]
    np.testing.assert_allclose(part.values("CAM", "pixel AP"), expected, atol=1e-6)
    kinds = part.frame["kind"].unique().tolist()
    assert kinds == [DATA.kind(lesions[4])]


def test_a_data_set_may_give_an_image_and_numbers(model):
    """One number for each image is a row, however the items are collated."""

    def scaled(inputs, target, additional_forward_args):
        numbers, tables = additional_forward_args
        assert numbers.tolist() == tables[:, 1].tolist()
        return inputs * numbers[:, None, None, None]

    def item(i):
        return (DATA[i][0], i + 0.5, torch.tensor([0.0, i + 0.5])), DATA[i][1]

    expected = evaluate({"scaled": lambda inputs, **_: inputs}, _Masks(), baselines=False)
    same(evaluate({"scaled": scaled}, _Masks(item=item), baselines=False), expected)


def test_a_table_goes_where_the_model_is():
    images, table = torch.zeros(4, 1, 8, 8), torch.zeros(4)
    [batch] = masked_batches([((images, table), table.long(), images)])[0]
    assert batch.on(torch.device("meta")).args[0].is_meta


def test_kinds_may_be_strings_of_numpys(model):
    data = first(kinds=list(np.array(["a", "b", "a", "b"])))
    assert sorted(evaluate(Saliency(model), data).frame["kind"].unique()) == ["a", "b"]


def first(**changes):
    """One batch in which items are replaced."""
    images, labels, masks, kinds = batches(4)[0]
    names = {"images": images, "labels": labels, "masks": masks, "kinds": kinds} | changes
    return [tuple(names.values())]


class _NoMask(Dataset):
    def __len__(self):
        return N

    def __getitem__(self, i):
        return DATA[i]


class _Masks(_NoMask):
    """A data set whose items or masks are spoiled."""

    def __init__(self, mask=None, item=None):
        self.mask = mask or DATA.mask
        self.item = item or DATA.__getitem__

    def __getitem__(self, i):
        return self.item(i)


REFUSED = {
    "no batch": (lambda: [], {}, ValueError, "data: it gave no batch, expected at least one"),
    "no item": (lambda: Subset(DATA, []), {}, ValueError, "data: it gave no batch"),
    "a number": (lambda: 3, {}, TypeError, "data: got int, expected an iterable of batches"),
    "no mask method": (_NoMask, {}, TypeError, r"data: _NoMask has no method mask\(i\). Add one"),
    "subset of it": (lambda: Subset(_NoMask(), [0]), {}, TypeError, r"no method mask\(i\)"),
    "loader without": (
        # A loader draws its seed, here from its own generator.
        lambda: DataLoader(DATA, 4, generator=torch.Generator()), {}, TypeError,
        "data: a batch is a list of 2, expected .*Pass the data set itself",
    ),
    "a tensor": (lambda: torch.zeros(2, 3), {}, TypeError, r"data: a batch is a tensor \(3,\)"),
    "mask None": (
        lambda: _Masks(mask=lambda i: None), {}, ValueError, r"item 0 has no mask.*Subset\(data"
    ),
    "batch mask None": (
        lambda: first(masks=None), {}, ValueError, r"no mask \(None\), expected \(4, 32, 32\)"
    ),
    "masks in a list": (
        lambda: first(masks=list(batches(4)[0][2])), {}, TypeError,
        r"masks are a list of 4, expected one tensor \(4, 32, 32\) .*torch.stack",
    ),
    "a mask None": (
        lambda: first(masks=[torch.zeros(32, 32), None]), {}, TypeError, "masks are a list of 2"
    ),
    "mask size": (
        lambda: first(masks=torch.zeros(4, 16, 16)), {}, ValueError,
        r"masks of shape \(4, 16, 16\) for inputs .*expected \(4, 32, 32\).* override mask",
    ),
    "item's mask size": (
        lambda: _Masks(mask=lambda i: torch.zeros(40, 32)), {}, ValueError, r"\(12, 40, 32\) for"
    ),
    "masks of two sizes": (
        lambda: _Masks(mask=lambda i: torch.zeros(32 + i, 32)), {}, ValueError,
        "the masks of items 0 to 11 do not form a batch .* override mask",
    ),
    "mask values": (
        lambda: first(masks=torch.full((4, 32, 32), 255)), {}, ValueError, "255.*mask > 0"
    ),
    "no target": (lambda: first(labels=None), {}, ValueError, r"no target \(None\).*target="),
    "item without target": (
        lambda: _Masks(item=lambda i: (DATA[i][0], None)), {}, ValueError, "no target.*target="
    ),
    "target shape": (
        lambda: first(labels=torch.zeros(4, 2, dtype=int)), {}, ValueError,
        r"targets of shape \(4, 2\).*target=",
    ),
    "target dtype": (lambda: first(labels=torch.zeros(4)), {}, ValueError, "float32.*class index"),
    "target negative": (
        lambda: first(labels=torch.tensor([0, 1, -1, 0])), {}, ValueError, "class index from 0"
    ),
    "inputs side by side": (
        lambda: [(torch.zeros(4, 1, 8, 8),) * 2 + (torch.zeros(4, dtype=int),) * 2], {},
        ValueError, r"targets of shape \(4, 1, 8, 8\).*Several inputs go in a tuple",
    ),
    "inputs": (lambda: first(images=["a"]), {}, (AssertionError, TypeError, ValueError), "nputs"),
    "table of another length": (
        lambda: first(images=(torch.zeros(4, 1, 32, 32), torch.zeros(3))), {}, ValueError,
        r"data: input 1 of a batch is a tensor \(3,\), expected .* each of 4 images, \(4,\) or",
    ),
    "table that is one number": (
        lambda: first(images=(torch.zeros(4, 1, 32, 32), torch.tensor(3.0))), {}, ValueError,
        r"input 1 of a batch is a tensor \(\), expected .*function around the model",
    ),
    "table of words": (
        lambda: first(images=(torch.zeros(4, 1, 32, 32), torch.zeros(4), ["a"] * 4)), {},
        ValueError, "input 2 of a batch is a list of 4, expected a tensor",
    ),
    "one axis": (lambda: first(images=torch.zeros(4, 1, 32)), {}, ValueError, "expected .N, C, H"),
    "kinds": (lambda: first(kinds=["a"]), {}, ValueError, "kinds are a list of 1, expected a list"),
    "item": (lambda: _Masks(item=lambda i: DATA[i][0]), {}, TypeError, "item 0 is a tensor .*labe"),
    "image": (
        lambda: _Masks(item=lambda i: (object(), 0)), {}, ValueError, "images of items 0 to 11.*tra"
    ),
    "metrics a list": (
        lambda: DATA, {"metrics": [metrics.iou]}, TypeError, "metrics: got list, expected a mapping"
    ),
    "metric no function": (
        lambda: DATA, {"metrics": {"a": 3}}, TypeError, "metrics: 'a' is int, expected a function"
    ),
    "faithfulness": (
        lambda: DATA, {"faithfulness": {"a": "b"}}, TypeError, r"faithfulness: 'a' is str, expec"
    ),
    "no figure": (lambda: DATA, {"metrics": {}}, ValueError, "metrics: got none and no faithfulne"),
    "same name": (
        lambda: DATA, {"faithfulness": {"pixel AP": max}}, ValueError, "'pixel AP' is also.*another"
    ),
    "figure's shape": (
        lambda: DATA, {"metrics": {"a": lambda a, m: a.mean()}}, ValueError,
        r"metrics: 'a' gave shape \(\) for 12 images, expected one",
    ),
    "figure infinite": (
        lambda: DATA, {"faithfulness": {"a": lambda x, a, y: y / 0}}, ValueError,
        "faithfulness: 'a' gave .*finite",
    ),
    "target a name": (lambda: DATA, {"target": "1"}, ValueError, "target: got '1', expected a who"),
    "batch size": (lambda: DATA, {"batch_size": 0}, ValueError, "batch_size: got 0, expected"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_refused_and_nothing_left_behind(model, name):
    data, options, error, message = REFUSED[name]
    model[1].train()
    state = State(model)
    with pytest.raises(error, match=message):
        evaluate(methods_of(model), data(), **options)
    state.assert_unchanged()


def test_refused_before_the_model_runs(model):
    ran = []
    model.register_forward_hook(lambda *_: ran.append(1))
    before_any_batch = ("no mask method", "metrics a list", "same name", "target a name")
    in_the_first = ("mask size", "mask values", "no target", "kinds")
    for name in before_any_batch + in_the_first:
        data, options, error, message = REFUSED[name]
        with pytest.raises(error, match=message):
            evaluate(methods_of(model), data(), **options)
    assert not ran
    evaluate(methods_of(model), DATA)
    assert ran
