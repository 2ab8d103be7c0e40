"""SECURITY.md's table of faults is what the tests recorded, and every record's test is still there."""

from __future__ import annotations

import pytest
from fault_table import DOCUMENT, is_test, read_records, table, with_table


@pytest.fixture
def records():
    if not DOCUMENT.exists():
        pytest.skip("the tests do not run from a source checkout")
    return read_records()


def test_the_table_is_the_sum_of_the_records(records):
    document = DOCUMENT.read_text(encoding="utf-8")
    assert document == with_table(document, table(records)), "run pytest --write-faults"


@pytest.mark.slow
def test_every_record_has_its_test(records):
    assert [test for test in records if not is_test(test)] == []


def test_equal_rows_of_one_file_are_added_up():
    rows = table(
        {"a.py::x[1]": [("cut", 1000, "refused")], "a.py::x[2]": [("cut", 2, "refused")], "b.py::y": [("cut", 3, "refused")]}
    )
    assert rows.splitlines()[2:] == ["| cut | 1,002 | refused | `a.py` |", "| cut | 3 | refused | `b.py` |"]
