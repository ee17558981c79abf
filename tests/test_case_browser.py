"""One HTML file to page through cases: whole in itself, safe, small."""

import base64
import io
import json
import re
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from browser import CASES, LAYERS, SIZE, K, case
from PIL import Image

from captum_hrcam.fusion import upsample
from captum_hrcam.visualize import Case, case_browser

KINDS = ("layer_maps", "maps")
OTHERS = {"CAM": 7, "Grad-CAM": 14}


def parts(path: Path) -> tuple[dict, list[dict]]:
    """What a page was given: about all cases, and each case."""
    text = path.read_text()
    about = re.search(r'id="about">(.*?)</script>', text, re.DOTALL)[1]
    cases = re.findall(r'class="case">(.*?)</script>', text, re.DOTALL)
    return json.loads(about), [json.loads(c) for c in cases]


def test_maps_come_back_to_half_a_level(tmp_path):
    case_browser(CASES, tmp_path / "cases.html", classes=["normal", "lesion"])
    about, packed = parts(tmp_path / "cases.html")
    assert about["titles"] == ["scan 0", "scan 1", "scan 2"]
    assert about["layers"] == list(LAYERS)
    for one, given in zip(packed, CASES, strict=True):
        steps = np.frombuffer(zlib.decompress(base64.b64decode(one["values"])), np.uint8)
        values = steps.cumsum(dtype=np.uint8).tobytes()
        start = 0
        pairs = [*given.layer_maps.values(), *given.maps.values()]
        for kept, expected in zip(one["layers"] + one["methods"], pairs, strict=True):
            n = K * kept["size"][0] * kept["size"][1]
            levels = np.frombuffer(values, np.uint8, n, start).reshape(K, *kept["size"])
            low, high = (np.array(kept[end])[:, None, None] for end in ("low", "high"))
            found = low + levels / 255 * (high - low)
            assert (np.abs(found - expected.numpy()) <= (high - low) / 510 + 1e-6).all()
            start += n
        mask = np.unpackbits(np.frombuffer(values, np.uint8, offset=start))[: SIZE[0] * SIZE[1]]
        assert mask.sum() == (0 if given.mask is None else given.mask.sum())


def test_is_whole_in_itself_and_lets_nothing_run_that_is_not_its_own(tmp_path):
    evil = "</script><script>document.title = 'broken'</script><!--"
    case_browser(
        [case(0, title=evil)], tmp_path / "cases.html", classes=[evil, "b"], title=f"<b>{evil}"
    )
    text = (tmp_path / "cases.html").read_text()
    assert "default-src 'none'" in text
    assert "http" not in re.sub(r"http-equiv", "", text)
    assert text.count("<script") == text.count("</script>") == 3  # about, one case, the page's own
    assert "<b>" not in text.split("<title>")[1].split("</title>")[0]
    assert parts(tmp_path / "cases.html")[0]["titles"] == [evil]


@pytest.mark.parametrize("channels", [1, 3])
def test_two_hundred_cases_take_less_than_40_megabytes(tmp_path, channels):
    """Noise in image and layers is the worst there is; methods as compare() gives them."""
    side = 224
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    smooth = (x + y) / (2 * side)
    generator = torch.Generator().manual_seed(0)

    def maps(n: int, k: int = 4) -> torch.Tensor:
        return torch.randn(k, n, n, generator=generator)

    noise = 0.05 * torch.randn(channels, side, side, generator=generator)
    big = Case(
        (smooth + noise).clamp(0, 1),
        {f"layer{n}": maps(n) for n in (112, 56, 28, 14, 7)},
        {name: upsample(maps(n)[None], (side, side))[0] for name, n in OTHERS.items()},
        [0.0] * 4,
        smooth > 0.8,
    )
    sizes = []
    for n in (1, 3):
        case_browser([big] * n, tmp_path / "cases.html")
        sizes.append((tmp_path / "cases.html").stat().st_size)
    each = (sizes[1] - sizes[0]) / 2
    assert sizes[0] + 199 * each < 40e6


def test_maps_of_many_cells_are_averaged(tmp_path):
    fine = torch.rand(K, 224, 300, generator=torch.Generator().manual_seed(0))
    case_browser([case(0, layer_maps={"fine": fine})], tmp_path / "cases.html")
    kept = parts(tmp_path / "cases.html")[1][0]["layers"][0]
    assert kept["size"] == [75, 100]
    expected = torch.nn.functional.adaptive_avg_pool2d(fine, (75, 100))
    assert kept["high"] == pytest.approx(expected.amax((1, 2)).tolist())


def test_each_method_has_a_scale_for_all_cases(tmp_path):
    faint = case(3)
    faint = case(3, **{k: {n: a / 100 for n, a in getattr(faint, k).items()} for k in KINDS})
    case_browser([case(0), faint], tmp_path / "cases.html")
    found = parts(tmp_path / "cases.html")[0]["largest"]
    strong = case(0)
    methods = [[*strong.layer_maps.values()], *([a] for a in strong.maps.values())]
    drawn = [sum(upsample(a[None], SIZE)[0] for a in summed) for summed in methods]
    expected = [a.abs().amax((1, 2)).tolist() for a in drawn]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_images_of_0_to_1_keep_their_brightness(tmp_path):
    for top, expected in ((0.5, 128), (2.0, 255)):
        image = torch.linspace(0, top, SIZE[0] * SIZE[1]).reshape(1, *SIZE)
        case_browser([case(0, image=image)], tmp_path / "cases.html")
        url = parts(tmp_path / "cases.html")[1][0]["image"]
        picture = Image.open(io.BytesIO(base64.b64decode(url.split(",")[1])))
        assert np.asarray(picture).max() == expected


def test_bad_calls_are_refused_before_a_file_is_written(tmp_path):
    other = case(1, maps={})
    for error, message, arguments, options in (
        (ValueError, "cases: got none", [], {}),
        (TypeError, r"cases\[0\]: got int", [3], {}),
        (ValueError, r"cases\[1\]: got layers", [CASES[0], other], {}),
        (ValueError, "classes: got 1 for 2", CASES, {"classes": ["a"]}),
        (IndexError, "target: got 2", CASES, {"target": 2}),
        (IndexError, "target: got 'lesion', expected a class from 0", CASES, {"target": "lesion"}),
    ):
        with pytest.raises(error, match=message):
            case_browser(arguments, tmp_path / "cases.html", **options)
    with pytest.raises(FileNotFoundError, match="path: no folder"):
        case_browser(CASES, tmp_path / "none" / "cases.html")
    assert list(tmp_path.iterdir()) == []
