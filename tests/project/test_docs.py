"""The documentation: the site builds without a warning, its Python runs, its tables are those of the results kept."""

from __future__ import annotations

import ast
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import LAYERS, TinyNet, picture
from torch import nn

from fastspade import backbones, errors
from fastspade.backbones.network import Network, Recipe
from fastspade.errors import MissingDependencyError
from fastspade.spade.options import names

pytestmark = pytest.mark.slow  # builds the site

ROOT = Path(__file__).parents[2]
if not (ROOT / "mkdocs.yml").exists():
    pytest.skip("the documentation is not part of this copy of the tests", allow_module_level=True)
PAGES = ["README.md", *sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs").glob("*.md"))]
# Pictures and a folder below are what the pages call "parts"; these are the other names that they do not define.
BLOCK = re.compile(r"(<!-- not run: .+? -->\n)?^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks(page: str) -> list[str]:
    found = BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))
    return [code for not_run, code in found if not not_run]


class Network3(nn.Module):
    """Has the layers' names that the pages use for a network of the reader's own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stage2, self.stage3 = (nn.Conv2d(3, 3, 3, stride=stride, padding=1) for stride in (4, 2, 2))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.stage3(self.stage2(self.stem(images)))


def names_of_the_pages() -> dict[str, object]:
    generator = torch.Generator().manual_seed(0)
    pyramid = {n: [torch.rand(n, c, side, side, generator=generator) for c, side in ((3, 8), (4, 4))] for n in (2, 5)}
    random = np.random.default_rng(0)
    return {
        "my_network": Network3(),
        "levels": pyramid[5],
        "gallery_levels": pyramid[5],
        "query_levels": pyramid[2],
        "nearest_images": torch.tensor([[0, 1], [2, 4]]),
        "chosen": torch.tensor([[0, 1, 2], [2, 3, 4]]),
        "query": torch.rand(7, 3, generator=generator),
        "gallery": torch.rand(9, 3, generator=generator),
        "labels": np.array([0, 1, 0, 1]),
        "scores": np.array([0.1, 0.9, 0.3, 0.2]),
        "maps": random.random((3, 8, 8)),
        "masks": random.random((3, 8, 8)) > 0.7,
    }


@pytest.fixture
def parts(tmp_path, monkeypatch):
    """A working folder with parts/good and parts/test, and tiny networks behind the published names."""

    def tiny(name: str) -> Recipe:
        return Recipe(name, "published", lambda _weights: Network(TinyNet(), name, "published", LAYERS, image_size=(64, 48)))

    monkeypatch.setattr(backbones.load, "BACKBONES", {name: tiny(name) for name in backbones.BACKBONES})
    monkeypatch.setattr(backbones.load, "timm_recipe", tiny)
    for kind, seeds in (("good", range(4)), ("test", range(10, 13))):
        (tmp_path / "parts" / kind).mkdir(parents=True)
        for seed in seeds:
            picture(seed).save(tmp_path / "parts" / kind / f"{seed}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)])
@pytest.mark.filterwarnings("ignore:k=50 but there are")
def test_the_python_of_a_page_runs(page, parts, capsys):
    """In order, in one namespace. A block after the comment "not run: why" is left out."""
    names = names_of_the_pages()
    for code in blocks(page):
        names |= {name: value for name, value in names_of_the_pages().items() if name in ("query", "gallery")}
        if "PreparedGallery" in code:  # there the query is a pyramid
            names["query"] = names["query_levels"]
        try:
            exec(compile(code, page, "exec"), names)
        except MissingDependencyError as error:
            pytest.skip(str(error))
    if page == "docs/quickstart.md":
        assert (parts / "first.png").exists() and (parts / "parts.safetensors").exists()
        assert len(names["result"].names) == 3 and "10.png" in capsys.readouterr().out


def test_pages_name_files_that_exist():
    """Paths in backticks, from the repository's root."""
    pattern = re.compile(r"`((?:benchmarks|csrc|docs|python|tests|cmake)/[\w./]+\.\w+)[^`]*`")
    missing = {
        f"{page}: {path}"
        for page in [*PAGES, "CONTRIBUTING.md", "CHANGELOG.md"]
        for path in pattern.findall((ROOT / page).read_text(encoding="utf-8"))
        if not (ROOT / path).exists() and "NAME" not in path
    }
    assert not missing


def test_the_newest_version_is_in_the_changelog():
    import fastspade

    assert f"## [{fastspade.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("mkdocs", reason="mkdocs is not installed (extra 'docs')")
    pytest.importorskip("material", reason="mkdocs-material is not installed (extra 'docs')")
    pytest.importorskip("mkdocstrings", reason="mkdocstrings is not installed (extra 'docs')")
    place = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(place)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stderr
    return place


def test_the_site_has_every_page_and_fetches_nothing(site):
    for page in (ROOT / "docs").glob("*.md"):
        assert (site / ("" if page.stem == "index" else page.stem) / "index.html").exists(), page.name
    for page in site.rglob("index.html"):
        fetched = re.findall(r'<(?:script|img|link)[^>]+(?:src|href)="(https?:[^"]+)"', page.read_text(encoding="utf-8"))
        assert not [address for address in fetched if "canonical" not in address], page


def test_the_reference_shows_public_names_with_their_arguments(site):
    text = (site / "api" / "index.html").read_text(encoding="utf-8")
    import fastspade

    others = [
        "sklearn.SpadeDetector",
        "anomalib.Spade",
        "ray.run.score",
        "distributed.spade.DistributedSpade",
        "evaluate.pro.pro",
    ]
    own = [name for name in fastspade.__all__ if name != "__version__"]
    for name in [
        *own,
        *others,
        "backbones.load.load_backbone",
        *(f"errors.{name}" for name in vars(errors) if name.endswith("Error")),
    ]:
        assert re.search(rf'id="fastspade\.([\w.]*\.)?{re.escape(name)}"', text), name
    assert "Any = None,\n    upsample" not in text  # of overloads only those that users see
    assert "<li><p><code>kappa</code>: how many neighbours" in text or "<li><code>kappa</code>: how many neighbours" in text


def test_the_sites_tables_are_those_of_the_results(site):
    text = (site / "performance" / "index.html").read_text(encoding="utf-8")
    assert "<!-- table" not in text and text.count("<table>") >= 2
    assert "<table>" in (site / "backbones" / "index.html").read_text(encoding="utf-8").split("What each costs")[-1]


def test_every_option_has_its_row(site):
    text = (site / "options" / "index.html").read_text(encoding="utf-8")
    assert re.findall(r"<tr>\s*<td><code>(\w+)</code></td>", text) == list(names())


def test_every_backbone_of_the_benchmark_has_its_row_and_its_cost():
    script = ast.parse((ROOT / "benchmarks" / "backbones.py").read_text(encoding="utf-8"))
    named = [n.value for n in script.body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "BACKBONES"]
    names = eval(compile(ast.Expression(named[0]), "backbones.py", "eval"), {})
    kept = json.loads((ROOT / "benchmarks" / "results" / "backbones.json").read_text(encoding="utf-8"))
    assert list(kept["rows"]) == list(names) and any("vit" in name for name in names)
    for row in kept["rows"].values():
        values = row["embedding"] + sum(math.prod(level) for level in row["levels"])
        assert row["bank_bytes_per_image"] == 4 * values and row["network_ms"] > 0 and row["search_ms"] > 0


def test_the_cluster_model_on_the_page_is_what_the_benchmark_computes():
    script = ROOT / "benchmarks" / "scale_out.py"
    printed = subprocess.run([sys.executable, str(script), "model"], capture_output=True, text=True, check=True).stdout
    page = (ROOT / "docs" / "scale_out.md").read_text(encoding="utf-8")
    assert page.partition("<!-- model -->")[2].partition("<!-- end of model -->")[0].strip() == printed.strip()
