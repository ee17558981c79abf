"""``make mutation``: the code is changed in small ways, one at a time; the tests must notice each.

The changes are Cosmic Ray's (https://cosmic-ray.readthedocs.io), made in a copy of the repository.
Each is tested in a fork of this process, where torch is imported already: a second, not ten.
"""

import argparse
import difflib
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import captum.attr  # noqa: F401 - what takes long to import, and nothing of ours
import hypothesis  # noqa: F401
import matplotlib.pyplot  # noqa: F401
import pytest
import sklearn.metrics  # noqa: F401
import torch
import torchvision  # noqa: F401
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
METRICS = ["test_metrics.py", "test_metrics_inputs.py"]
TESTS = {  # of each file the quick tests that are its own, those that fail soonest first
    "activations": ["test_activations.py", "test_concurrency.py", "test_bad_input.py"],
    "batch": ["test_batch.py"],
    "discrimination": ["test_discrimination.py"],
    "edges": ["test_edges.py"],
    "fit_report": ["test_fit_report.py"],
    "fusion": ["test_fusion.py", "test_hrcam.py", "test_bad_input.py"],
    "grain": ["test_grain.py"],
    "head": ["test_head.py", "test_storage.py", "test_hrcam.py"],
    "head_and_model": ["test_head_and_model.py"],
    "metrics/boxes": METRICS,
    "metrics/overlap": METRICS,
    "metrics/pairs": METRICS,
    "metrics/pointing": METRICS,
    "metrics/pooled": METRICS,
    "metrics/ranking": METRICS,
    "metrics/statistics": ["test_metrics_statistics.py"],
    "metrics/thresholds": METRICS,
    "modes": ["test_modes.py", "test_concurrency.py", "test_bad_input.py"],
    "placing": ["test_placing.py"],
    "pooling": ["test_pooling.py"],
    "report": ["test_report.py"],
    "rows": ["test_rows.py"],
    "spread": ["test_spread.py"],
}
# One neighbour of each operator: nine replacements of one + are killed by the same test.
CHANGES = re.compile(
    r"core/(Replace(BinaryOperator_(Add_Sub|Sub_Add|Mul_Div|Div_Mul|FloorDiv_Mul|Mod_Mul|Pow_Mul"
    r"|BitAnd_BitOr)|ComparisonOperator_(Lt_LtE|LtE_Lt|Gt_GtE|GtE_Gt|Lt_Gt|Gt_Lt|Eq_NotEq|NotEq_Eq"
    r"|Is_IsNot|IsNot_Is|In_NotIn|NotIn_In)|UnaryOperator_Delete_.*|TrueWithFalse|FalseWithTrue"
    r"|AndWithOr|OrWithAnd|BreakWithContinue|ContinueWithBreak)|NumberReplacer|RemoveDecorator"
    r"|ExceptionReplacer|ZeroIterationForLoop|AddNot)"
)
FEW = "not (residual or depthwise or odd or solver)"  # of tests/cases.py a third
SECONDS = 60  # after which a change that hangs is noticed


def mutants(code: str) -> Iterator[str]:
    """The code with one change each."""
    from cosmic_ray.ast import ast_nodes, get_ast  # which `make test` can do without
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator, operator_names

    tree = get_ast(code)
    for name in filter(CHANGES.fullmatch, operator_names()):
        operator = get_operator(name)()
        places = sum(1 for node in ast_nodes(tree) for _ in operator.mutation_positions(node))
        for place in range(places):
            changed = mutate_code(code, operator, place)
            if changed is not None and changed != code:
                yield changed


def passes(copy: Path, tests: list[str]) -> bool:
    """Whether the tests pass in the copy, run in a fork."""
    child = os.fork()
    if child == 0:
        os.setsid()  # a group of its own, so that what it starts ends with it
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
        os.chdir(copy)
        sys.path[:0] = [str(copy), str(copy / "tests")]
        files = [f"tests/{name}" for name in tests]
        os._exit(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-k", FEW, *files]))
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status == 0
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def survivors(copy: Path, module: str) -> tuple[int, list[str]]:
    """(changes in all, those that no test noticed)."""
    path = copy / "captum_hrcam" / f"{module}.py"
    code, alive = path.read_text(), []
    if not passes(copy, TESTS[module]):
        raise SystemExit(f"{module}: its tests fail as it is")
    every = list(mutants(code))
    for changed in tqdm(every, desc=module):
        path.write_text(changed)
        if passes(copy, TESTS[module]):
            lines = difflib.unified_diff(code.splitlines(), changed.splitlines(), lineterm="", n=0)
            alive.append("\n".join([module, *list(lines)[2:]]))
            print(alive[-1], flush=True)
    path.write_text(code)
    return len(every), alive


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("modules", nargs="*", help=f"of {', '.join(TESTS)}; default all")
    modules = parser.parse_args().modules or list(TESTS)
    torch.set_num_threads(1)
    sys.dont_write_bytecode = True
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        for part in ("captum_hrcam", "tests"):
            shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        table = {module: survivors(copy, module) for module in modules}
    total = (sum(n for n, _ in table.values()), [x for _, alive in table.values() for x in alive])
    for name, (n, alive) in {**table, "all": total}.items():
        print(f"{name:<20} {n:>4} changes, {len(alive):>3} unnoticed, {1 - len(alive) / n:.1%}")


if __name__ == "__main__":
    main()
