"""What a fit says of its data: while it reads them, and in the report."""

import pytest
import torch
from conftest import BY_NAME, fit_quietly, training_batches
from torch import nn

from captum_hrcam import HRCAM

CASE = BY_NAME["vgg2d"]


def fit(**options: object) -> HRCAM:
    hrcam = HRCAM(CASE.model(), CASE.layers)
    return fit_quietly(hrcam, training_batches(CASE), solver="ridge", penalty=1.0, **options)


@pytest.mark.parametrize("show_progress", [True, False])
def test_progress_is_drawn_where_it_is_asked_for(show_progress, tmp_path, capsys):
    options = {"n_passes": 2, "val_data": training_batches(CASE), "show_progress": show_progress}
    for what in ("pass", "comparison"):  # then the features come from the cache
        fit(cache=tmp_path, **options)
        told = capsys.readouterr().err
        for line in (f"{what} 1 of 2", f"{what} 2 of 2", "validation"):
            assert (f"HR-CAM {line}: " in told) == show_progress


def test_what_is_chosen_on_validation_images_does_not_depend_on_the_batch_size():
    torch.manual_seed(0)
    sees_bright_places = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU())
    model = nn.Sequential(
        sees_bright_places, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 2)
    )
    with torch.no_grad():
        for p, value in zip(
            model.parameters(), ([[[[1]]]], [-1], [[-9], [9]], [0, 0]), strict=True
        ):
            p.copy_(torch.tensor(value))
    x, y = 0.5 * torch.randn(90, 1, 12, 12), torch.arange(90) % 2
    x[y == 1, :, 2:6, 2:6] += 2 * torch.rand(45, 1, 1, 1)
    told = []
    for size in (8, 30, 90):
        val_data = list(zip(x.split(size), y.split(size), strict=True))
        report = fit_quietly(HRCAM(model, "0"), [(x, y)], val_data=val_data).report
        told.append((report.support, report.change))
    assert told[1] == pytest.approx(told[0], rel=1e-4)
    assert told[2] == pytest.approx(told[0], rel=1e-4)


def test_features_that_exceed_the_memory_lie_on_disk_and_the_report_says_so(monkeypatch):
    in_memory = fit()
    monkeypatch.setattr("captum_hrcam.rows.SHARE_OF_MEMORY", 0)
    on_disk = fit()
    assert [
        [choice for choice in hrcam.report.choices if choice.startswith("features: on disk")] != []
        for hrcam in (in_memory, on_disk)
    ] == [False, True]
    for name, weight in in_memory.weights.items():
        assert torch.equal(on_disk.weights[name], weight)
