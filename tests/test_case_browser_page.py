"""The case browser in a real Chromium, with keyboard and mouse."""

import re

import numpy as np
import pytest
import torch
from browser import CASES, CHROMIUM, FLAGS, SIZE, K, case

from captum_hrcam.fusion import upsample
from captum_hrcam.visualize import case_browser


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
    """The page of ``CASES``; fails on any error in its console and any request but its own."""
    case_browser(CASES, tmp_path / "cases.html", classes=["normal", "lesion"], target=1)
    page = chromium.new_page(viewport={"width": 1440, "height": 900})
    errors, requests = [], []
    page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    address = (tmp_path / "cases.html").as_uri()
    page.goto(address)
    wait_for_case(page, 1)
    yield page
    assert errors == []
    assert [url for url in requests if not url.startswith("data:")] == [address]
    page.close()


CONTRAST = """element => {
  const channels = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = (color) => channels(color).slice(0, 3).map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (e) => getComputedStyle(e).backgroundColor;
  let behind = element;
  while (channels(ground(behind))[3] === 0) behind = behind.parentElement;
  const pair = [getComputedStyle(element).color, ground(behind)].map(light);
  return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
}"""  # of WCAG 2


def values(page, panel: int = 0) -> np.ndarray:
    """The map that a panel shows: 0 is HR-CAM's."""
    return np.array(page.evaluate(f"Array.from(mapped[{panel}].values)")).reshape(SIZE)


def wait_for_case(page, number: int) -> None:
    """Until its maps are drawn; Playwright's own wait for a function is stopped by the policy."""
    page.locator(f"canvas[aria-label$='on case {number}']").first.wait_for()


def upsampled(maps: torch.Tensor, k: int) -> np.ndarray:
    return upsample(maps[None], SIZE)[0, k].numpy()


def half_levels(*maps: torch.Tensor) -> float:
    """How far 8 bits may be from a sum of maps."""
    return sum(float(a.max() - a.min()) / 510 for a in maps) + 1e-5


def pixels(page, panel: int = 0) -> str:
    return page.evaluate(f"mapped[{panel}].canvas.toDataURL()")


def test_layers_add_up_to_the_map_and_are_switched_off(page):
    early, late = (maps for maps in CASES[0].layer_maps.values())
    both = upsampled(early, 1) + upsampled(late, 1)
    np.testing.assert_allclose(values(page), both, rtol=0, atol=half_levels(early[1], late[1]))
    before = pixels(page)
    page.get_by_label("early").click()
    np.testing.assert_allclose(values(page), upsampled(late, 1), rtol=0, atol=half_levels(late[1]))
    assert pixels(page) != before
    page.get_by_label("One scale for all cases").click()
    # Still on the scale of all layers.
    assert page.evaluate("mapped[0].top") == pytest.approx(np.abs(both).max(), abs=0.05)
    page.keyboard.press("s")
    page.keyboard.press("Shift+Digit2")
    assert not values(page).any()
    page.keyboard.press("a")
    assert pixels(page) == before


def test_methods_have_one_scale_for_all_cases_or_one_for_each(page):
    def largest(one, panel: int, k: int) -> float:
        maps = [one.layer_maps, *({name: a} for name, a in one.maps.items())][panel]
        return np.abs(sum(upsampled(a, k) for a in maps.values())).max()

    for k in (1, 0):
        for panel in range(3):
            of_all = max(largest(one, panel, k) for one in CASES)
            assert page.evaluate(f"mapped[{panel}].top") == pytest.approx(of_all, abs=0.05)
        page.keyboard.press("s")
        for panel in range(3):
            own = largest(CASES[0], panel, k)
            assert page.evaluate(f"mapped[{panel}].top") == pytest.approx(own, abs=0.05)
        page.keyboard.press("s")
        page.keyboard.press("1")


def test_says_which_bias_completes_the_means(page):
    assert "bias of \u221228.6 are the score" in page.locator("#bias").inner_text()
    page.keyboard.press("1")
    assert "bias of 1 are the score" in page.locator("#bias").inner_text()


def test_every_panel_says_its_value_at_the_pointer(page):
    box = page.locator(".view").nth(2).bounding_box()  # CAM's
    y, x = 15, 20
    across, down = (x + 0.5) / SIZE[1] * box["width"], (y + 0.5) / SIZE[0] * box["height"]
    page.mouse.move(box["x"] + across, box["y"] + down)
    said = page.locator("figcaption span").all_inner_texts()
    assert said[0] == "x 20, y 15"
    cam = CASES[0].maps["CAM"]
    found = float(said[2].removeprefix("here ").replace("\u2212", "-"))
    assert found == pytest.approx(upsampled(cam, 1)[y, x], rel=0.005, abs=half_levels(cam[1]))
    page.mouse.move(0, 0)
    top = page.evaluate("written(mapped[1].top)")
    assert page.locator("figcaption span").nth(2).inner_text().endswith(f" of \u00b1{top}")


def test_slider_has_the_arrow_keys_until_escape(page):
    page.keyboard.press("t")
    page.keyboard.press("ArrowRight")
    assert page.get_by_role("slider", name="Threshold").input_value() == "31"
    assert page.locator("#status").inner_text() == "1 of 3"
    page.keyboard.press("Escape")
    page.keyboard.press("ArrowRight")
    assert page.locator("#status").inner_text() == "2 of 3"


def test_strings_are_text(chromium, tmp_path):
    evil = "</script><script>document.title = 'broken'</script><img src=x onerror=alert()>"
    maps = {evil: torch.rand(K, 3, 4)}
    named = case(0, title=evil, layer_maps=maps, maps=maps)
    case_browser([named], tmp_path / "cases.html", classes=[evil, "b"], title=evil)
    page = chromium.new_page()
    page.goto((tmp_path / "cases.html").as_uri())
    wait_for_case(page, 1)
    assert page.title() == evil
    assert page.locator("h1").inner_text() == evil
    for text in ("figcaption b", "#classes b", "#layers b"):
        assert evil in page.locator(text).all_inner_texts()
    assert evil in page.locator("option").inner_text()
    page.close()


def test_pages_by_key_by_button_and_by_name(page):
    def shows(number: int) -> None:
        wait_for_case(page, number)
        assert page.locator("#status").inner_text() == f"{number} of 3"
        assert page.locator("option:checked").inner_text().endswith(CASES[number - 1].title)
        sources.add(page.locator("img").first.get_attribute("src"))
        assert page.locator("#mask").is_disabled() == (CASES[number - 1].mask is None)
        assert page.get_by_label("Previous case").is_disabled() == (number == 1)
        assert page.get_by_label("Next case").is_disabled() == (number == 3)

    sources = set()
    shows(1)
    page.keyboard.press("ArrowRight")
    shows(2)
    page.get_by_label("Next case").click()
    shows(3)
    page.keyboard.press("Home")
    shows(1)
    page.get_by_label("Case", exact=True).select_option(index=2)
    shows(3)
    page.get_by_label("Previous case").click()
    shows(2)
    assert len(sources) == 3


def test_classes_threshold_opacity_and_mask(page):
    grad_cam, buttons = CASES[0].maps["Grad-CAM"], page.locator("#classes button")
    for k, choose in (
        (1, lambda: None),  # the first to be shown
        (0, lambda: page.keyboard.press("1")),
        (1, buttons.nth(1).click),
    ):
        choose()
        atol = half_levels(grad_cam[k])
        np.testing.assert_allclose(values(page, 2), upsampled(grad_cam, k), rtol=0, atol=atol)
        pressed = [button.get_attribute("aria-pressed") for button in buttons.all()]
        assert pressed == ["false" if c != k else "true" for c in range(K)]
    drawn = "mapped[0].canvas.getContext('2d').getImageData(0, 0, 32, 24).data"
    count = f"Array.from({drawn}).filter((v, i) => i % 4 === 3 && v > 0).length"
    page.get_by_role("slider", name="Threshold").fill("0")
    everything = page.evaluate(count)
    page.get_by_role("slider", name="Threshold").fill("60")
    page.keyboard.press("Escape")
    page.keyboard.press("s")  # each case on its own scale
    strong = np.abs(values(page)) >= 0.6 * np.abs(values(page)).max()
    assert page.evaluate(count) == strong.sum() < everything
    page.keyboard.press("Escape")
    page.keyboard.press("n")  # evidence against the class is hidden
    assert page.evaluate(count) == (strong & (values(page) > 0)).sum()
    page.get_by_role("slider", name="Opacity").fill("0")
    assert page.evaluate(count) == 0
    box = page.locator(".line").first.evaluate(
        "e => (b => [b.x, b.y, b.width, b.height, e.getTotalLength()])(e.getBBox())"
    )
    assert box == [5, 4, 6, 5, 2 * (6 + 5)]
    page.keyboard.press("Escape")
    page.keyboard.press("m")
    assert page.locator(".line").first.is_hidden()


def test_every_control_has_a_name_and_shows_the_focus(page):
    tree = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    roles = ("button", "checkbox", "combobox", "slider")
    names = [node["name"]["value"] for node in tree if node.get("role", {}).get("value") in roles]
    assert len(names) == page.locator("button, input, select").count()
    assert len(set(names) - {""}) == len(names)
    reached = set()
    for _ in names[1:]:  # there is no previous case
        page.keyboard.press("Tab")
        focused = page.locator(":focus")
        reached.add(focused.evaluate("e => e.parentElement.outerHTML + e.outerHTML"))
        assert focused.evaluate("e => getComputedStyle(e).outlineStyle") == "solid"
    assert len(reached) == len(names) - 1
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
    for text in (
        "h1",
        "#status",
        "#classes [aria-pressed=true]",
        ".note",
        "figcaption span",
        "kbd",
    ):
        assert page.locator(text).first.evaluate(CONTRAST) >= 4.5, text
