"""One HTML file to page through cases: whole in itself, safe, small; used in a real browser."""

import base64
import json
import re
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from captum.attr import LayerGradCam
from conftest import BY_NAME, fitted

from captum_hrcam import CAM
from captum_hrcam.visualize import Case, case_browser, collect_cases

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-quic"),
]
K, SIZE = 2, (24, 32)
LAYERS = {"early": (12, 16), "late": (3, 4)}


def case(seed: int, **changes: object) -> Case:
    generator = torch.Generator().manual_seed(seed)

    def maps(size: tuple[int, int]) -> torch.Tensor:
        return torch.randn(K, *size, generator=generator)

    mask = torch.zeros(SIZE)
    mask[4:9, 5:11] = 1
    given = {
        "image": torch.rand(1, *SIZE, generator=generator),
        "layer_maps": {name: maps(size) for name, size in LAYERS.items()},
        "maps": {"CAM": maps((3, 4)), "Grad-CAM": maps((6, 8))},
        "scores": [-1.5, 2.25],
        "mask": mask,
        "title": f"scan {seed}",
    }
    return Case(**(given | changes))


CASES = [case(0), case(1, mask=None), case(2)]


def parts(path: Path) -> tuple[dict, list[dict]]:
    """What a page was given: about all cases, and each case."""
    text = path.read_text()
    about = re.search(r'id="about">(.*?)</script>', text, re.DOTALL)[1]
    cases = re.findall(r'class="case">(.*?)</script>', text, re.DOTALL)
    return json.loads(about), [json.loads(c) for c in cases]


# ---- the file


def test_maps_come_back_to_half_a_level(tmp_path):
    case_browser(CASES, tmp_path / "cases.html", classes=["normal", "lesion"])
    about, packed = parts(tmp_path / "cases.html")
    assert about["titles"] == ["scan 0", "scan 1", "scan 2"]
    assert about["layers"] == list(LAYERS)
    for one, given in zip(packed, CASES, strict=True):
        values = zlib.decompress(base64.b64decode(one["values"]))
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


def test_two_hundred_cases_take_less_than_40_megabytes(tmp_path):
    side = 224
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    smooth = (x + y) / (2 * side)
    generator = torch.Generator().manual_seed(0)

    def maps(n: int, k: int = 4) -> torch.Tensor:
        return torch.randn(k, n, n, generator=generator)

    big = Case(
        (smooth + 0.05 * torch.randn(side, side, generator=generator)).clamp(0, 1)[None],
        {f"layer{n}": maps(n) for n in (112, 56, 28, 14, 7)},
        {"CAM": maps(7), "Grad-CAM": maps(14)},
        [0.0] * 4,
        smooth > 0.8,
    )
    case_browser([big] * 4, tmp_path / "cases.html")
    empty = 40_000
    assert ((tmp_path / "cases.html").stat().st_size - empty) / 4 * 200 < 40e6


def test_cases_are_collected_from_methods():
    of = BY_NAME["vgg2d"]
    hrcam = fitted(of)
    model, last = hrcam.forward_func, of.layers[-1]
    methods = [CAM(model, last), LayerGradCam(model, hrcam.layers[last])]
    x = of.images()[:, :1].expand(-1, 2, *of.size)
    with pytest.raises(ValueError, match="image: got shape"):
        collect_cases(hrcam, x, methods=methods)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": torch.rand(2, *SIZE)}, "image: got shape .*1 or 3 channels"),
        ({"layer_maps": {}}, "layer_maps: got no layer"),
        (
            {"maps": {"CAM": torch.rand(3, 3, 4)}},
            r"maps\['CAM'\]: got shape \(3, 3, 4\), expected 2",
        ),
        ({"scores": [1.0]}, r"scores: got shape \(1,\)"),
        ({"mask": torch.zeros(5, 5)}, "mask"),
        ({"image": torch.full((1, *SIZE), torch.nan)}, "image: NaN or infinity"),
    ],
)
def test_a_case_that_does_not_fit_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        case(0, **changes)


def test_bad_calls_are_refused_before_a_file_is_written(tmp_path):
    other = case(1, maps={})
    for error, message, arguments, options in (
        (ValueError, "cases: got none", [], {}),
        (TypeError, r"cases\[0\]: got int", [3], {}),
        (ValueError, r"cases\[1\]: got layers", [CASES[0], other], {}),
        (ValueError, "classes: got 1 for 2", CASES, {"classes": ["a"]}),
        (IndexError, "target: got 2", CASES, {"target": 2}),
    ):
        with pytest.raises(error, match=message):
            case_browser(arguments, tmp_path / "cases.html", **options)
    with pytest.raises(FileNotFoundError, match="path: no folder"):
        case_browser(CASES, tmp_path / "none" / "cases.html")
    assert list(tmp_path.iterdir()) == []


# ---- the page


@pytest.fixture(scope="module")
def chromium():
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt-get install chromium, then make test-browser")
    sync_api = pytest.importorskip("playwright.sync_api", reason="run make test-browser")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium, tmp_path):
    """The page of ``CASES``; fails on any error in its console and any request."""
    case_browser(CASES, tmp_path / "cases.html", classes=["normal", "lesion"], target=1)
    page = chromium.new_page(viewport={"width": 1440, "height": 900})
    errors, requests = [], []
    page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto((tmp_path / "cases.html").as_uri())
    page.wait_for_function("shown !== undefined")
    yield page
    assert errors == []
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
    page.close()


def values(page, panel: int = 0) -> np.ndarray:
    """The map that a panel shows: 0 is HR-CAM's."""
    return np.array(page.evaluate(f"Array.from(mapped[{panel}].values)")).reshape(SIZE)


def upsampled(maps: torch.Tensor, k: int) -> np.ndarray:
    return torch.nn.functional.interpolate(maps[None], SIZE, mode="bilinear")[0, k].numpy()


def pixels(page, panel: int = 0) -> str:
    return page.evaluate(f"mapped[{panel}].canvas.toDataURL()")


def test_layers_add_up_to_the_map_and_are_switched_off(page):
    expected = {name: upsampled(maps, 1) for name, maps in CASES[0].layer_maps.items()}
    np.testing.assert_allclose(values(page), sum(expected.values()), atol=0.03)
    np.testing.assert_allclose(values(page, 1), upsampled(CASES[0].maps["CAM"], 1), atol=0.02)
    before = pixels(page)
    page.get_by_label("early").click()
    np.testing.assert_allclose(values(page), expected["late"], atol=0.02)
    assert pixels(page) != before
    page.keyboard.press("a")
    assert pixels(page) == before


def test_pages_by_key_by_button_and_by_name(page):
    def status() -> str:
        page.wait_for_function("find('case').selectedIndex === index")
        return page.locator("#status").inner_text()

    assert status() == "1 of 3"
    assert page.get_by_label("Previous case").is_disabled()
    first = page.locator("img").first.get_attribute("src")
    page.keyboard.press("ArrowRight")
    assert status() == "2 of 3"
    page.wait_for_function("find('mask').disabled")  # this case has none
    assert page.locator("img").first.get_attribute("src") != first
    page.get_by_label("Next case").click()
    assert status() == "3 of 3"
    page.keyboard.press("Home")
    assert status() == "1 of 3"
    page.get_by_label("Case", exact=True).select_option(index=2)
    assert status() == "3 of 3"


def test_classes_threshold_opacity_and_mask(page):
    np.testing.assert_allclose(values(page, 2), upsampled(CASES[0].maps["Grad-CAM"], 1), atol=0.02)
    page.keyboard.press("1")
    np.testing.assert_allclose(values(page, 2), upsampled(CASES[0].maps["Grad-CAM"], 0), atol=0.02)
    assert page.get_by_role("button", name="normal").get_attribute("aria-pressed") == "true"
    drawn = "mapped[0].canvas.getContext('2d').getImageData(0, 0, 32, 24).data"
    count = f"Array.from({drawn}).filter((v, i) => i % 4 === 3 && v > 0).length"
    page.get_by_role("slider", name="Threshold").fill("0")
    everything = page.evaluate(count)
    page.get_by_role("slider", name="Threshold").fill("60")
    strong = np.abs(values(page)) >= 0.6 * np.abs(values(page)).max()
    assert page.evaluate(count) == strong.sum() < everything
    page.keyboard.press("Escape")
    page.keyboard.press("n")  # evidence against the class is hidden
    assert page.evaluate(count) == (strong & (values(page) > 0)).sum()
    page.get_by_role("slider", name="Opacity").fill("0")
    assert page.evaluate(count) == 0
    assert page.locator(".line").first.get_attribute("d")
    page.keyboard.press("Escape")
    page.keyboard.press("m")
    assert page.locator(".line").first.is_hidden()


def test_every_control_has_a_name(page):
    for control in page.locator("button, input, select").all():
        name = control.evaluate(
            "e => e.ariaLabel || [...(e.labels ?? [])].map(l => l.innerText).join() || e.innerText"
        )
        assert name.strip()
    for canvas in page.locator("canvas").all():
        assert "on case 1" in canvas.get_attribute("aria-label")


@pytest.mark.parametrize("width", [375, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_fits_a_phone_and_a_desk_in_light_and_dark(page, width, scheme):
    page.set_viewport_size({"width": width, "height": 800})
    page.emulate_media(color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    light = sum(int(v) for v in re.findall(r"\d+", colour)[:3]) / 3
    assert (light > 127) == (scheme == "light")
