"""The table of faults in SECURITY.md, made by the tests that try them.

A test of hostile input says what it tried with the fixture `record_fault`. What every test said last is kept in
faults.json, and the table is its sum. A test that tries another number than is kept there fails; `pytest --write-faults`
brings both files up to date for the tests that ran.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
RECORDS = TESTS / "support" / "faults.json"
DOCUMENT = TESTS.parent / "SECURITY.md"
BEGIN, END = "<!-- faults: written by `pytest --write-faults` -->", "<!-- faults: end -->"

Fault = tuple[str, int, str]  # what was tried, how many times, what happens
_tried: dict[str, list[Fault]] = {}  # by test


def write_faults() -> None:
    """Brings faults.json and SECURITY.md up to date for the tests that ran."""
    kept = {test: faults for test, faults in read_records().items() if is_test(test)} | _tried
    lines = [f"{json.dumps(test)}: {json.dumps(faults)}" for test, faults in sorted(kept.items())]
    RECORDS.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    DOCUMENT.write_text(with_table(DOCUMENT.read_text(encoding="utf-8"), table(kept)), encoding="utf-8")


@pytest.fixture
def record_fault(request: pytest.FixtureRequest) -> Iterator[Callable[[str, int, str], None]]:
    """record_fault(what, count, outcome): this test tried `what` `count` times, and every time the outcome was `outcome`.

    The three must not depend on the machine or on library versions: where each try may end in either of two ways, record
    all tries once with an outcome that names both. Rows of several tests with equal `what` and `outcome` are added up.
    """
    failed_before = request.session.testsfailed
    faults: list[Fault] = []

    def record(what: str, count: int, outcome: str) -> None:
        assert count > 0 and not set("|\n") & set(what + outcome)
        faults.append((what, count, outcome))

    yield record
    if not faults or request.session.testsfailed > failed_before:
        return
    test = f"{request.node.path.name}::{request.node.name}"
    if request.config.getoption("--write-faults"):
        _tried[test] = faults
    elif RECORDS.exists():
        assert read_records().get(test) == faults, "SECURITY.md is out of date: run pytest --write-faults"


def read_records() -> dict[str, list[Fault]]:
    if not RECORDS.exists():
        return {}
    stored = json.loads(RECORDS.read_text(encoding="utf-8"))
    return {test: [tuple(fault) for fault in faults] for test, faults in stored.items()}


def is_test(name: str) -> bool:
    """Whether "test_file.py::test_function[case]" names a test function that is there and records faults."""
    file, _, function = name.partition("::")
    found = list(TESTS.rglob(file))
    if not found:
        return False
    tree = ast.parse(found[0].read_text(encoding="utf-8"))
    functions = {node.name: [a.arg for a in node.args.args] for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    return "record_fault" in functions.get(function.partition("[")[0], [])


def table(records: dict[str, list[Fault]]) -> str:
    """A Markdown table, in the order of test files and of what each tried."""
    sums: dict[tuple[str, str, str], int] = {}
    for test, faults in sorted(records.items()):
        for what, count, outcome in faults:
            key = (test.partition("::")[0], what, outcome)
            sums[key] = sums.get(key, 0) + count
    rows = [f"| {what} | {count:,} | {outcome} | `{file}` |" for (file, what, outcome), count in sums.items()]
    return "\n".join(["| tried | times | what happens | in `tests/` |", "|---|---|---|---|", *rows])


def with_table(document: str, lines: str) -> str:
    """The document with what is between its markers replaced."""
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    assert begin and end, f"SECURITY.md must hold the lines {BEGIN} and {END}"
    return f"{before}{BEGIN}\n{lines}\n{END}{after}"
