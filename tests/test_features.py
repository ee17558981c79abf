"""What is kept of the pooled features: fair samples, a fifth held out, moments of all."""

import weakref
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F

from captum_hrcam import group
from captum_hrcam.features import FeatureCollector, Features, OfEachClass, Sample, held_out
from captum_hrcam.moments import Moments


def test_sample_keeps_all_that_fits_in_order():
    sample = Sample(10)
    for rows in torch.arange(8).split(3):
        sample.add(rows, rows * 2)
    first, second = sample.rows()
    assert first.tolist() == list(range(8))
    assert torch.equal(second, first * 2)


def test_sample_is_fair_and_bounded():
    counts = torch.zeros(50)
    for seed in range(300):
        sample = Sample(10)
        sample._generator.manual_seed(seed)
        for rows in torch.arange(50).split(7):
            sample.add(rows)
            assert sample._held <= 20 + 7
        (kept,) = sample.rows()
        assert len(kept) == 10
        assert kept.tolist() == sorted(kept.tolist())
        counts[kept] += 1
    assert (counts / 300 - 0.2).abs().max() < 0.1  # four standard errors of a fair draw


class Counted(torch.Tensor):
    """Counts the rows that are held at one time in tensors made from it."""

    live: ClassVar[list[weakref.ref[torch.Tensor]]] = []
    most = 0

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        given = super().__torch_function__(func, types, args, kwargs)
        if isinstance(given, cls):
            Counted.live.append(weakref.ref(given))
            held = [x for x in (ref() for ref in Counted.live) if x is not None]
            Counted.most = max(Counted.most, sum(map(len, held)))
        return given


@pytest.mark.parametrize("n", [40, 45, 80, 130, 400])
def test_sample_holds_twice_its_size_and_a_batch_at_most(n):
    """Its rows may be volumes. Those that stay have the smallest keys of all."""
    Counted.live, Counted.most = [], 0
    sample, generator = Sample(40), torch.Generator().manual_seed(0)
    batches = torch.arange(n).split(4)
    for rows in batches:
        sample.add(rows.as_subclass(Counted) * 1)
    (kept,) = sample.rows()
    keys = torch.cat([torch.rand(len(rows), generator=generator) for rows in batches])
    assert kept.tolist() == keys.argsort()[:40].sort().values.tolist()
    assert Counted.most <= 2 * 40 + 2 * 4  # a batch being added, one being copied


@pytest.mark.parametrize("period", range(2, 13))
def test_a_fifth_is_held_out_of_classes_that_take_turns(period):
    held = held_out(torch.arange(3000))
    labels = torch.arange(3000) % period
    for c in range(period):
        assert held[labels == c].float().mean().item() == pytest.approx(0.2, abs=0.02)


@pytest.mark.parametrize("n", range(5, 20))
def test_some_of_a_few_are_held_out_whatever_the_batches(n):
    held = held_out(torch.arange(n))
    assert 1 <= held.sum() <= n // 3


def test_the_same_images_of_each_pass_are_held_out():
    collector = FeatureCollector()
    for _ in range(2):
        for start in range(0, 12, 4):
            z = torch.arange(start, start + 4).float()[:, None]
            collector.add(held_out(z[:, 0]), z, z, z, z[:, :0])
    rows = collector.rows()
    assert rows[rows.held].z.flatten().tolist() == [0, 5, 10, 0, 5, 10]
    total, fitted = collector.moments()
    assert fitted.n == (~rows.held).sum() == 18
    assert len(rows) == total.n == collector.n == 24
    assert total.mean_z.item() == pytest.approx(5.5)
    assert fitted.mean_z.item() == pytest.approx(rows[~rows.held].z.mean().item())


def test_moments_see_rows_that_are_not_kept():
    collector = FeatureCollector(Sample(5))
    z = torch.randn(100, 3)
    for rows in z.split(10):
        collector.add(held_out(torch.arange(10)), rows, rows, rows[:, :1], rows[:, :0])
    moments, _ = collector.moments()
    assert len(collector.rows()) == 5
    torch.testing.assert_close(moments.mean_z.float(), z.mean(0))


@pytest.mark.parametrize("scaled", [True, False])
def test_rows_less_their_mean_and_in_deviations_if_asked_for(scaled):
    z, y = torch.randn(100, 3, dtype=torch.float64), torch.zeros(100, 1)
    z[:, 2] = 0.3  # an average that does not vary
    moments = Moments.of(z, y, torch.zeros_like(z))
    rows = Features(torch.zeros(100, dtype=torch.bool), z.float(), y, y)
    (found,) = rows.less_mean(moments, scaled=scaled)
    expected = (z - z.mean(0)) / (z.std(0, correction=0) if scaled else 1)
    expected[:, 2] = 0
    torch.testing.assert_close(found, expected.float(), rtol=1e-4, atol=1e-6)


def test_a_sample_is_drawn_fairly_in_order_and_the_same_again(monkeypatch):
    monkeypatch.setattr("captum_hrcam.features.CHUNK_BYTES", 40)  # ten rows
    places = torch.arange(1000.0)[:, None]
    rows = Features(places[:, 0] % 5 == 0, places, places + 0.5, places[:, :0])
    drawn = rows.sample(300)
    found = drawn.z[:, 0]
    assert len(drawn) == len(found.unique()) == 300
    assert (found.diff() > 0).all()
    assert torch.equal(drawn.y, drawn.z + 0.5)
    assert torch.equal(drawn.held, found % 5 == 0)
    assert found.mean().item() == pytest.approx(500, abs=60)  # four standard errors
    assert torch.equal(rows.sample(300).z, drawn.z)
    assert rows.sample(1000) is rows


def test_a_rank_may_hold_nothing_out_or_all():
    for held in (True, False):
        collector = FeatureCollector()
        collector.add(
            torch.full((3,), held), torch.ones(3, 2), torch.zeros(3, 2), torch.eye(3), torch.eye(3)
        )
        rows = collector.rows()
        empty = rows[rows.held != held]
        assert [len(part) for part in empty.chunks()] == [0]
        weight = torch.zeros(3, 2, dtype=torch.float64)
        assert empty.scores(weight, weight[:, 0]).shape == (0, 3)
        assert empty.layer_scores({"a": weight})["a"].shape == (0, 3)


def test_a_sample_of_each_class_keeps_a_rare_one_whole():
    y = F.one_hot((torch.arange(1000) % 100 == 7).long()).double()
    sample = OfEachClass(24, "cross_entropy")
    for rows in torch.arange(1000).split(30):
        sample.add(rows, y[rows])
    kept, targets = sample.rows()
    assert len(kept) == 24
    assert targets.sum(0).tolist() == [14, 10]
    assert kept.tolist() == sorted(kept.tolist())


def test_a_sample_of_each_class_does_not_depend_on_the_batches():
    y = torch.rand(300, 3, generator=torch.Generator().manual_seed(0)) > 0.7  # several labels
    found = []
    for size in (1, 7, 300):
        sample = OfEachClass(20, "binary_cross_entropy")
        for rows in torch.arange(300).split(size):
            sample.add(rows, y[rows].double())
        found.append(sample.rows()[0].tolist())
    assert found[0] == found[1] == found[2]


def test_ranks_together_see_each_class_also_of_sorted_images(monkeypatch):
    """Each has room for a fifth of the classes; a DistributedSampler deals out the images."""
    y = F.one_hot(torch.arange(3200) * 100 // 3200, 100).double()
    seen = torch.zeros(100)
    for rank in range(8):
        monkeypatch.setattr(group, "rank", lambda rank=rank: rank)
        sample = OfEachClass(20, "cross_entropy")
        for rows in y[rank::8].split(30):
            sample.add(rows)
        (kept,) = sample.rows()
        assert kept.sum(0).max() == 1
        seen += kept.sum(0)
    assert (seen > 0).all()


def test_of_several_labels_each_takes_its_turn_and_so_does_none():
    counts = {(0, 0): 700, (1, 0): 200, (0, 1): 10, (1, 1): 90}
    y = torch.cat([torch.tensor([row] * n) for row, n in counts.items()]).double()
    sample = OfEachClass(24, "binary_cross_entropy")
    sample.add(torch.arange(1000), y)
    kept = sample.rows()[1]
    assert len(kept) == 24
    shown = torch.cat([kept, 1 - kept.amax(1, keepdim=True)], 1)
    assert (shown.sum(0) >= 24 // 3).all()


def test_rows_of_each_class_stand_for_as_many_as_there_are():
    """A finding in half of the images, ten rare ones that only come with it, and one apart."""
    generator = torch.Generator().manual_seed(1)
    y = (torch.rand(20_000, 12, generator=generator) < 0.02).double()
    y[:, 0] = torch.rand(20_000, generator=generator) < 0.5
    y[:, 1:11] *= y[:, :1]
    sample = OfEachClass(4000, "binary_cross_entropy")
    for rows in torch.arange(20_000).split(700):
        sample.add(rows, y[rows])
    kept, weights = sample.rows()[1], sample.weights().double()
    assert weights.sum().item() == pytest.approx(20_000, rel=0.05)
    torch.testing.assert_close(weights @ kept / 20_000, y.mean(0), rtol=0.05, atol=0)
    assert (kept.mean(0)[1:] > 2 * y.mean(0)[1:]).all()
