"""Heads on disk: whole or not at all, read without running code or taking memory on trust."""

import ast
import json
import os
import pickle
import re
import signal
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import BY_NAME, State, fit_quietly, fitted, training_batches

import captum_hrcam
from captum_hrcam import HRCAM
from captum_hrcam.storage import FORMAT, VERSION

CASE = BY_NAME["vgg2d"]
FIXTURES = Path(__file__).parent / "fixtures"


def test_everything_a_map_needs_is_kept(tmp_path):
    hrcam = fitted(CASE, solver="pattern")  # which is centred
    hrcam.save(tmp_path / "head.pt")
    head = HRCAM.load(tmp_path / "head.pt", CASE.model()).head
    for field in ("weights", "mean_score", "spread"):
        for name, value in getattr(hrcam.head, field).items():
            assert torch.equal(getattr(head, field)[name], value)
    assert torch.equal(head.bias, hrcam.bias)
    assert head.centred is True


def test_layer_inputs_are_remembered(tmp_path):
    hrcam = HRCAM(CASE.model(), "pool1", attribute_to_layer_input=1)  # as good as True
    fit_quietly(hrcam, training_batches(CASE))
    hrcam.save(tmp_path / "head.pt")
    loaded = HRCAM.load(tmp_path / "head.pt", hrcam.forward_func)
    assert loaded.attribute_to_layer_input
    assert torch.equal(loaded.attribute(CASE.images(), 1), hrcam.attribute(CASE.images(), 1))


def test_layers_may_have_other_names_in_another_model(tmp_path):
    hrcam = fitted(CASE)
    hrcam.save(tmp_path / "head.pt")
    wrapped = torch.nn.Sequential(hrcam.forward_func)
    loaded = HRCAM.load(tmp_path / "head.pt", wrapped, ["0.stage1", "0.stage2", "0.stage3"])
    assert torch.equal(loaded.attribute(CASE.images(), 1), hrcam.attribute(CASE.images(), 1))


def test_the_layers_of_the_file_in_another_order_are_refused(tmp_path):
    fitted(CASE).save(tmp_path / "head.pt")
    with pytest.raises(
        ValueError, match=r"another order, stage2, .* expected stage1, .*layer=None"
    ):
        HRCAM.load(tmp_path / "head.pt", CASE.model(), ["stage2", "stage1", "stage3"])


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file '.*absent\.pt'; save a fitted HRCAM"):
        HRCAM.load(tmp_path / "absent.pt", CASE.model())


def test_truncated_file_is_named(tmp_path):
    path = tmp_path / "head.pt"
    fitted(CASE).save(path)
    whole = path.read_bytes()
    for length in (0, 10, len(whole) // 2, len(whole) - 10):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"head\.pt' is truncated or was not written"):
            HRCAM.load(path, CASE.model())


# ---- what a file may claim


def parts(path: Path) -> tuple[dict[str, Any], bytes]:
    """Header and tensors' bytes."""
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


def write_parts(path: Path, header: Any, tensors: bytes) -> None:
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + tensors)


def tensor(header: dict[str, Any], **changed: Any) -> None:
    header["weights/stage2"].update(changed)


def about(header: dict[str, Any], **changed: Any) -> None:
    metadata = header["__metadata__"]
    metadata[FORMAT] = json.dumps(json.loads(metadata[FORMAT]) | changed)


HUGE = 10**15
CLAIMS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a huge tensor": (
        lambda h: tensor(h, shape=[HUGE, 1], data_offsets=[0, 8 * HUGE]),
        "header",
    ),
    "a huge shape": (lambda h: tensor(h, shape=[HUGE, HUGE]), "header"),
    "a negative shape": (lambda h: tensor(h, shape=[-3, -6]), "header"),
    "no shape": (lambda h: tensor(h, shape=[]), ""),
    "a shape of words": (lambda h: tensor(h, shape=["3", "6"]), ""),
    "a place outside": (lambda h: tensor(h, data_offsets=[-144, 0]), "header"),
    "one place for all": (
        lambda h: [entry.update(data_offsets=[0, 144]) for n, entry in h.items() if "/" in n],
        "header",
    ),
    "another type": (lambda h: tensor(h, dtype="I64"), "not finite float64"),
    "fewer channels": (lambda h: tensor(h, shape=[2, 9]), r"weights stage2 .*\(2, 9\), 3 classes"),
    "weights of one dimension": (lambda h: tensor(h, shape=[18]), r"shape \(18,\)"),
    "a layer without weights": (lambda h: about(h, layers=["stage4"]), "weights/stage4"),
    "a layer left out": (lambda h: about(h, layers=["stage1"]), "/stage[23]' is of no layer"),
    "a layer twice": (lambda h: about(h, layers=["stage1", "stage1"]), "weights/stage1"),
    "layers that are a number": (lambda h: about(h, layers=3), ""),
    "layers that are numbers": (lambda h: about(h, layers=[1, 4]), r"layers are \[1, 4\]"),
    "a flag that is a word": (
        lambda h: about(h, attribute_to_layer_input="false"),
        "attribute_to_layer_input is 'false'",
    ),
    "no bias": (lambda h: h.update(other=h.pop("bias")), "'bias'"),
    "another format": (lambda h: h.update(__metadata__={"format": "pt"}), FORMAT),
    "no metadata": (lambda h: h.pop("__metadata__"), ""),
    "nested JSON": (lambda h: h["__metadata__"].update({FORMAT: "[" * 10**5}), "recursion"),
    "no JSON": (lambda h: h["__metadata__"].update({FORMAT: "{"}), ""),
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_claims_are_checked_before_memory_is_taken(tmp_path, claim):
    hrcam, path = fitted(CASE), tmp_path / "head"
    hrcam.save(path)
    header, tensors = parts(path)
    change, message = CLAIMS[claim]
    change(header)
    write_parts(path, header, tensors)
    state = State(hrcam.forward_func)
    tracemalloc.start()
    with pytest.raises(ValueError, match=rf"path: '.*head' is truncated or was.*{message}"):
        HRCAM.load(path, hrcam.forward_func)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20
    state.assert_unchanged()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("field", ["weights", "mean_score", "spread", "bias"])
def test_values_must_be_finite(tmp_path, field, value):
    hrcam = fitted(CASE)
    values = getattr(hrcam.head, field)
    (values if field == "bias" else values["stage2"]).view(-1)[0] = value
    hrcam.save(tmp_path / "head")
    with pytest.raises(ValueError, match=f"{field} .*not finite"):
        HRCAM.load(tmp_path / "head", CASE.model())


def test_layer_without_channels_is_refused(tmp_path):
    hrcam = fitted(CASE)
    hrcam.head.weights["stage2"] = torch.zeros(3, 0)
    hrcam.save(tmp_path / "head")
    with pytest.raises(ValueError, match=r"weights stage2 of shape \(3, 0\)"):
        HRCAM.load(tmp_path / "head", CASE.model())


@pytest.mark.parametrize(
    "content",
    [
        (2**63).to_bytes(8, "little") + b"{}",
        (2**27).to_bytes(8, "little") + b"{}" + b" " * (2**27 - 2),
        (10**5).to_bytes(8, "little") + b"[" * 10**5,
        (2).to_bytes(8, "little") + b"[]",
        (2).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"\xff\xff",
        (11).to_bytes(8, "little") + b'{"bias": 3}',
    ],
    ids=["length", "long header", "nested", "list", "empty", "no text", "no entry"],
)
def test_header_that_is_none(tmp_path, content):
    (tmp_path / "head").write_bytes(content)
    with pytest.raises(ValueError, match="is truncated or was not written by HRCAM"):
        HRCAM.load(tmp_path / "head", CASE.model())


def test_code_in_a_file_is_not_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "exploded"),))

    (tmp_path / "pickle").write_bytes(pickle.dumps(Bomb()))
    torch.save({"head": Bomb()}, tmp_path / "torch")
    with zipfile.ZipFile(tmp_path / "zip", "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("archive/data.pkl", b"\0" * 10**7)
    for name in ("pickle", "torch", "zip"):
        with pytest.raises(ValueError, match=name):
            HRCAM.load(tmp_path / name, CASE.model())
    assert not (tmp_path / "exploded").exists()


def test_no_file_of_the_package_reads_or_writes_pickles():
    unsafe = re.compile(
        r"(?<!allow_)pickle|allow_pickle=True|joblib|shelve|marshal|dill|torch\.(load|save)\b"
    )
    for path in Path(captum_hrcam.__file__).parent.rglob("*.py"):
        code = ast.unparse(without_docstrings(ast.parse(path.read_text())))
        assert not unsafe.search(code), path


def without_docstrings(tree: ast.AST) -> ast.AST:
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value = ast.Constant(None)
    return tree


@pytest.mark.parametrize("value", [torch.zeros(2, 2), torch.tensor([0.1, float("nan")])])
def test_fingerprint_that_is_none_is_refused(tmp_path, value):
    hrcam = fitted(CASE)
    hrcam.head.fingerprint = value
    hrcam.save(tmp_path / "head")
    with pytest.raises(ValueError, match="the fingerprint is no row of finite float64"):
        HRCAM.load(tmp_path / "head", CASE.model())


@pytest.mark.parametrize(
    "value",
    [torch.tensor([0.1, float("nan")]), torch.tensor([1e10, 0]), torch.zeros(4), torch.zeros(1, 2)],
    ids=["NaN", "far", "four axes", "table"],
)
def test_displacement_that_is_none_is_refused(tmp_path, value):
    hrcam = fitted(CASE)
    hrcam.head.displacement["stage2"] = value
    hrcam.save(tmp_path / "head")
    with pytest.raises(ValueError, match="displacement stage2 is no row of float64"):
        HRCAM.load(tmp_path / "head", CASE.model())


def test_displacement_of_some_layers_alone_is_refused(tmp_path):
    hrcam = fitted(CASE)
    del hrcam.head.displacement["stage2"]
    hrcam.save(tmp_path / "head")
    with pytest.raises(ValueError, match="some layers have a displacement, others none"):
        HRCAM.load(tmp_path / "head", CASE.model())


# ---- versions


def test_newer_format_says_what_to_do(tmp_path):
    path = tmp_path / "head"
    fitted(CASE).save(path)
    header, tensors = parts(path)
    about(header, version=VERSION + 1)
    header["new"] = header.pop("bias")  # who knows
    write_parts(path, header, tensors)
    with pytest.raises(
        ValueError, match=f"version {VERSION + 1}, .* reads 1 to {VERSION}. Update captum-hrcam"
    ):
        HRCAM.load(path, CASE.model())


def formula_model() -> torch.nn.Module:
    """Parameters that no version of a random generator changes."""
    model = CASE.model()
    for p in model.parameters():
        p.data = torch.linspace(-1, 1, p.numel()).sin().view_as(p)
    return model


IMAGES = torch.linspace(-30, 30, 2 * 2 * 8 * 12).sin().view(2, 2, 8, 12)


@pytest.mark.parametrize("path", sorted(FIXTURES.glob("head_v*.safetensors")), ids=lambda p: p.name)
def test_heads_of_every_version_are_read(path):
    expected = json.loads(path.with_suffix(".json").read_text())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hrcam = HRCAM.load(path, formula_model())
    assert {name: w.tolist() for name, w in hrcam.weights.items()} == expected["weights"]
    assert hrcam.bias.tolist() == expected["bias"]
    for fusion, maps in expected["maps"].items():
        torch.testing.assert_close(
            hrcam.attribute(IMAGES, 1, fusion=fusion), torch.tensor(maps), rtol=1e-4, atol=1e-5
        )


def test_this_version_has_its_fixture(tmp_path):
    hrcam = HRCAM.load(FIXTURES / f"head_v{VERSION}.safetensors", formula_model())
    hrcam.save(tmp_path / "again")
    kept = FIXTURES / f"head_v{VERSION}.safetensors"
    assert (tmp_path / "again").read_bytes() == kept.read_bytes()


def write_fixture() -> None:
    """``python tests/test_storage.py`` when VERSION has changed; earlier fixtures stay."""
    data = torch.linspace(-500, 500, 30 * 2 * 8 * 12).sin().view(30, 2, 8, 12)
    hrcam = HRCAM(formula_model(), CASE.layers)
    fit_quietly(hrcam, [(data, torch.arange(30) % 3)], solver="pattern", place_layers=True)
    path = FIXTURES / f"head_v{VERSION}.safetensors"
    path.parent.mkdir(exist_ok=True)
    hrcam.save(path)
    expected = {
        "weights": {name: w.tolist() for name, w in hrcam.weights.items()},
        "bias": hrcam.bias.tolist(),
        "maps": {f: hrcam.attribute(IMAGES, 1, fusion=f).tolist() for f in ("sum", "evidence")},
    }
    path.with_suffix(".json").write_text(json.dumps(expected) + "\n")


# ---- against the model


def test_other_number_of_layers_is_refused(tmp_path):
    fitted(CASE).save(tmp_path / "head.pt")
    with pytest.raises(ValueError, match=r"got 1 layers, but .* holds 3: stage1, stage2, stage3"):
        HRCAM.load(tmp_path / "head.pt", CASE.model(), "stage1")


def test_other_model_is_refused_by_layer_name(tmp_path):
    fitted(CASE).save(tmp_path / "head.pt")
    with pytest.raises(ValueError, match=r"of layers stage1, stage2, .*, as layer=\[...\], or"):
        HRCAM.load(tmp_path / "head.pt", torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1)))


def test_other_channels_are_refused_at_the_first_map(tmp_path):
    fitted(CASE).save(tmp_path / "head")
    wider = CASE.model()
    wider.stage3[0], wider.stage3[1] = torch.nn.Conv2d(6, 9, 1), torch.nn.BatchNorm2d(9)
    hrcam = HRCAM.load(tmp_path / "head", wider)
    with pytest.raises(ValueError, match=r"'stage3' gave 9 channels.*has weights for 8"):
        hrcam.attribute(CASE.images(), 1)


def other_fold() -> torch.nn.Module:
    """The same network, trained a little on other images."""
    model = CASE.model()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for images, labels in training_batches(CASE):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return model


def test_other_weights_warn(tmp_path):
    hrcam, path = fitted(CASE), tmp_path / "head"
    hrcam.save(path)
    with pytest.warns(UserWarning, match="forward_func: its weights .*head' was") as seen:
        loaded = HRCAM.load(path, other_fold())
    assert [w.filename for w in seen] == [__file__]
    loaded.save(tmp_path / "again")  # keeps what the head was fitted on
    assert (tmp_path / "again").read_bytes() == path.read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        HRCAM.load(path, CASE.model().half())
        HRCAM.load(path, torch.compile(CASE.model(), backend="eager"))
        HRCAM.load(tmp_path / "again", CASE.model())


def test_weights_are_those_of_the_fit(tmp_path):
    hrcam = fitted(CASE)
    hrcam.forward_func.load_state_dict(other_fold().state_dict())
    hrcam.save(tmp_path / "head")
    with pytest.warns(UserWarning, match="its weights are not those"):
        HRCAM.load(tmp_path / "head", hrcam.forward_func)


def test_weights_behind_a_function_are_not_compared(tmp_path):
    model, other = CASE.model().eval(), other_fold().eval()
    hrcam = HRCAM(lambda x: model(x), [model.stage2, model.stage3])
    fit_quietly(hrcam, training_batches(CASE)).save(tmp_path / "head")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        HRCAM.load(tmp_path / "head", other, ["stage2", "stage3"])
        hrcam = fitted(CASE)
        hrcam.save(tmp_path / "head")
        layers = [other.stage1, other.stage2, other.stage3]
        HRCAM.load(tmp_path / "head", lambda x: other(x), layers)


# ---- whole or not at all


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="a child is killed")


def forked(work: Callable[[], Any]) -> int:
    """The id of a child that does the work."""
    child = os.fork()
    if child == 0:
        work()
        os._exit(0)
    return child


def kill_me(*args: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@needs_fork
@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_kill_at_a_moment_of_saving_leaves_the_old_file(tmp_path, moment):
    path, old, new = tmp_path / "head", fitted(CASE), fitted(CASE, solver="ridge", penalty=1.0)
    old.save(path)
    before = path.read_bytes()

    def save() -> None:
        setattr(os, moment, kill_me)
        new.save(path)

    assert os.WTERMSIG(os.waitpid(forked(save), 0)[1]) == signal.SIGKILL
    assert path.read_bytes() == before
    new.save(path)  # what the killed one left is not in the way
    assert torch.equal(HRCAM.load(path, CASE.model()).bias, new.bias)


@needs_fork
def test_kill_at_any_time_leaves_the_old_or_the_new_file(tmp_path):
    path, heads = tmp_path / "head", [fitted(CASE), fitted(CASE, solver="ridge", penalty=1.0)]
    contents = []
    for hrcam in heads:
        hrcam.save(path)
        contents.append(path.read_bytes())

    def save_for_ever() -> None:
        while True:
            for hrcam in heads:
                hrcam.save(path)

    for _ in range(20):
        before, child = path.stat().st_ino, forked(save_for_ever)
        while path.stat().st_ino == before:
            pass
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert path.read_bytes() in contents
        HRCAM.load(path, CASE.model())


@pytest.mark.skipif(os.name != "posix", reason="of POSIX modes")
def test_file_has_the_modes_of_any_new_file(tmp_path):
    fitted(CASE).save(tmp_path / "head")
    (tmp_path / "other").touch()
    assert (tmp_path / "head").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_failed_save_keeps_the_earlier_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "head.pt"
    fitted(CASE).save(path)
    before = path.read_bytes()

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        fitted(CASE, solver="ridge", penalty=1.0).save(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["head.pt"]


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path / "no"))):
        fitted(CASE).save(tmp_path / "no" / "head.pt")


def test_saving_before_fitting_is_refused(tmp_path):
    with pytest.raises(RuntimeError, match="no head yet"):
        HRCAM(CASE.model(), "stage1").save(tmp_path / "head.pt")
    assert os.listdir(tmp_path) == []


if __name__ == "__main__":
    write_fixture()
