"""Contract, upsample, add, and agree, against plain formulas."""

import math

import pytest
import torch
import torch.nn.functional as F

from captum_hrcam.fusion import Fusion, add_upsampled, agree, contract, rectify, upsample

SIZES = {1: (7,), 2: (4, 5), 3: (3, 4, 2)}


@pytest.mark.parametrize("d", [1, 2, 3])
def test_contract_is_the_weighted_sum_of_channels(d):
    f, w = torch.randn(3, 6, *SIZES[d]), torch.randn(4, 6)
    expected = torch.einsum("kc,nc...->nk...", w, f)
    torch.testing.assert_close(contract(f, w), expected)
    own = torch.randn(3, 1, 6)
    expected = torch.einsum("nkc,nc...->nk...", own, f)
    torch.testing.assert_close(contract(f, own), expected)


def test_contract_of_half_precision_accumulates_in_float32():
    f, w = torch.randn(2, 512, 3, 3).half(), torch.randn(1, 512, dtype=torch.float64)
    got = contract(f, w)
    assert got.dtype == torch.float32
    expected = torch.einsum("kc,nchw->nkhw", w, f.double()).float()
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("d", [1, 2, 3])
def test_upsampling_by_whole_factors_keeps_the_mean(d):
    a = torch.randn(2, 3, *SIZES[d])
    up = upsample(a, [3 * n for n in SIZES[d]])
    torch.testing.assert_close(up.flatten(2).mean(2), a.flatten(2).mean(2))


@pytest.mark.parametrize("d", [1, 2, 3])
def test_a_map_alone_keeps_its_ties(d):
    values = torch.randn(50, 1, *[1] * d)
    flat = add_upsampled([values.expand(-1, 1, *SIZES[d])], [7 * n for n in SIZES[d]])
    assert torch.equal(flat, values.expand_as(flat))
    corner = torch.cat([values, torch.zeros_like(values)], 2)
    up = upsample(corner, [16, *[1] * (d - 1)], exact=True)
    assert (up[:, :, :4] == values).all()  # a plateau, half a cell wide
    assert up.dtype == values.dtype


def test_map_of_that_size_is_given_back_without_work():
    a = torch.randn(2, 1, 4, 5)
    assert upsample(a, (4, 5)) is a


def test_layers_of_one_size_are_upsampled_once_and_the_same():
    maps = [torch.randn(2, 1, *s) for s in ((8, 8), (4, 4), (4, 4), (2, 2))]
    expected = sum(F.interpolate(a, (8, 8), mode="bilinear") for a in maps)
    torch.testing.assert_close(add_upsampled(maps, (8, 8)), expected)


def test_adding_leaves_the_maps_as_they_were():
    maps = [torch.randn(2, 1, *s) for s in ((8, 8), (4, 4), (8, 8))]
    before = [a.clone() for a in maps]
    first, again = add_upsampled(maps[:2], (8, 8)), add_upsampled(maps, (8, 8))
    torch.testing.assert_close(again - first, maps[2])
    assert all(torch.equal(a, b) for a, b in zip(maps, before, strict=True))


def test_rectify_keeps_what_exceeds_the_ordinary():
    a = torch.tensor([[[1.0, 3.0]], [[5.0, 2.0]]])  # (N, 1, w)
    assert rectify(a, torch.tensor([2.0])).tolist() == [[[0, 1]], [[3, 0]]]
    own = torch.tensor([[0.0], [4.0]])  # one for each image
    assert rectify(a, own).tolist() == [[[1, 3]], [[1, 0]]]


def test_agreement_is_low_where_any_layer_denies():
    yes, no = torch.full((1, 1, 4), 3.0), torch.full((1, 1, 4), -6.0)
    both = agree([yes, yes], [1, 2], (4,)).mean()
    assert both == pytest.approx(math.log1p(math.exp(3)))
    assert agree([yes, no], [1, 1], (4,)).mean() < 0.01
    assert agree([no, yes], [1, 1], (4,)).mean() < 0.01
    assert agree([no, no], [1, 1], (4,)).mean() < agree([yes, no], [1, 1], (4,)).mean()


def test_layer_counts_by_its_weight_in_the_agreement():
    yes, no = torch.full((1, 1, 4), 3.0), torch.full((1, 1, 4), -6.0)
    heard = [agree([yes, no], [1, w], (4,)).mean().item() for w in (1, 0.1, 0.001, 0)]
    assert heard == sorted(heard)
    assert heard[-1] == pytest.approx(math.log1p(math.exp(3)))
    for_each = torch.tensor([1.0, 0.0]).view(2, 1, 1)  # an image that hears it, one that does not
    first, second = agree([yes.expand(2, 1, 4), no.expand(2, 1, 4)], [1, for_each], (4,))
    assert (first.mean().item(), second.mean().item()) == pytest.approx((heard[0], heard[-1]))


def test_agreement_survives_extreme_maps():
    for value in (-1e4, 1e4):
        a = agree([torch.full((1, 1, 4), value), torch.zeros(1, 1, 2)], [1, 1], (4,))
        assert torch.isfinite(a).all()


def test_agreement_is_zero_where_every_layer_is_ordinary():
    fuse = Fusion("agreement")
    mean, spread = torch.tensor([2.0]), torch.tensor([0.5])
    maps = [fuse.layer(torch.full((1, 1, n), 2.0), mean, spread) for n in (4, 2)]
    fused = fuse(maps, (4,), [spread, 3 * spread])
    torch.testing.assert_close(fused, torch.zeros(1, 1, 4), atol=1e-6, rtol=0)


def test_spreads_weigh_the_layers_of_an_agreement():
    """In proportion, whatever their unit; equally where no map has any."""
    maps = [torch.tensor([[[3.0, -2.0]]]), torch.tensor([[[1.0, 1.0]]])]
    for unit in (1e-30, 1.0, 1e30):
        spreads = [torch.tensor([2.0]) * unit, torch.tensor([1.0]) * unit]
        expected = agree(maps, [2, 1], (2,)) - math.log(2)
        torch.testing.assert_close(Fusion("agreement")(maps, (2,), spreads), expected)
    none = [torch.zeros(1), torch.zeros(1)]
    expected = agree(maps, [1, 1], (2,)) - math.log(2)
    torch.testing.assert_close(Fusion("agreement")(maps, (2,), none), expected)


@pytest.mark.parametrize("fusion", ["evidence", "agreement"])
def test_map_without_spread_is_finite(fusion):
    """As of a layer of one cell: there is no deviation to measure it by."""
    a, mean = torch.tensor([[[1.0, 5.0]]]), torch.tensor([2.0])
    assert Fusion(fusion).layer(a, mean, torch.zeros(1)).flatten().tolist() in ([-1, 3], [0, 3])


def test_evidence_begins_half_a_deviation_above_the_mean():
    a, mean, spread = torch.tensor([[[1.0, 2.0, 3.0]]]), torch.tensor([1.0]), torch.tensor([2.0])
    assert Fusion("evidence").layer(a, mean, spread).flatten().tolist() == [0, 0, 1]


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4, 4, 4, 4)])
def test_inputs_without_space_or_with_too_much_are_refused(shape):
    with pytest.raises(ValueError, match=r"expected \(N, C, \*spatial\).*additional_forward"):
        Fusion().sizes([torch.ones(2, 3, 4, 4), torch.ones(shape)])
    assert Fusion().sizes([torch.ones(2, 3, 4), torch.ones(2, 3, 4, 5, 6)]) == [(4,), (4, 5, 6)]
    with pytest.raises(ValueError, match=r"got one of shape \(2, 3\), .*model\(x\[:, 0\]\)"):
        Fusion().sizes([torch.ones(2, 3)])  # the first input can only be an image


@pytest.mark.parametrize("threshold", [math.nan, math.inf, "1", None])
def test_threshold_is_a_finite_number(threshold):
    with pytest.raises(ValueError, match=f"evidence_threshold: got {threshold!r}, expected a numb"):
        Fusion("evidence", None, threshold)
    assert Fusion("evidence", None, 0).threshold == 0


def test_other_dimensions_than_the_maps_are_refused():
    with pytest.raises(
        ValueError, match=r"inputs: .* size \(8,\), but .* have \(4, 4\).*model\(x\[:, 0\]\)"
    ):
        upsample(torch.ones(1, 1, 4, 4), (8,))
    with pytest.raises(ValueError, match=r"inputs: .* size \(8, 8\), but .*a reshape_transform"):
        upsample(torch.ones(1, 1, 4), (8, 8))
