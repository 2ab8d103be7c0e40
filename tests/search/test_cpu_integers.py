"""The CPU engine's bounds in int8 and int16: they never change a result, and are given up where they tell too little."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # a process per instruction set


@pytest.fixture(scope="module", params=["generic_integer", "avx2_vnni", "avx512_vnni"])
def counts(request):
    """What integer_searches.py counted; it compares every search with the float64 reference itself."""
    script = str(Path(__file__).parents[1] / "programs" / "integer_searches.py")
    environment = {**os.environ, "FASTSPADE_SIMD": request.param}
    ended = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=False)
    if ended.returncode == 3:
        pytest.skip(f"this processor or build has no {request.param} kernels")
    assert ended.returncode == 0, ended.stderr[-4000:]
    return json.loads(ended.stdout)


def test_one_byte_tells_plain_vectors_apart(counts):
    for case in ("plain 1", "plain 9"):
        assert counts[case]["int8_pairs"] > counts[case]["pairs"] // 2
        assert counts[case]["int16_pairs"] == 0


def test_two_bytes_are_tried_where_one_tells_too_little_and_float32_after_them(counts):
    case = counts["clusters 1"]
    assert 0 < case["int8_pairs"] < case["pairs"] // 2
    assert 0 < case["int16_pairs"] < case["pairs"] // 2
    assert case["int8_pairs"] + case["int16_pairs"] < case["pairs"]


def test_pyramids_are_bounded_in_one_byte_where_coarse_levels_rule_out_little(counts):
    assert all(counts[f"pyramid {upsample} {kappa}"]["int8_pairs"] > 0 for upsample in (0, 1) for kappa in (1, 9))
