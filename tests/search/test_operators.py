"""The search as torch operators: registration is sound, torch.compile and torch.export see one node, meta shapes agree."""

from __future__ import annotations

import pytest
import torch
from search_cases import CASES, gallery_index, pyramid

from fastspade.search import PreparedGallery, knn, last_statistics, ops, pyramid_knn

CASE = next(case for case in CASES if case.name == "paper_like")
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def inputs(device):
    query, gallery = pyramid(CASE, CASE.queries, 1), pyramid(CASE, CASE.images, 2)
    return [t.to(device) for t in query], [t.to(device) for t in gallery], gallery_index(CASE).to(device)


@pytest.mark.parametrize("device", DEVICES)
def test_operators_pass_torchs_own_check(device):
    query, gallery, chosen = inputs(device)
    torch.library.opcheck(ops.search, (query, gallery, None, 2, chosen, "bilinear", "exact", "float16"))
    torch.library.opcheck(ops.prepare_gallery, (gallery, "bilinear", "float16"))


@pytest.mark.parametrize("device", DEVICES)
def test_a_compiled_function_is_one_graph_with_the_same_answer(device):
    query, gallery, chosen = inputs(device)

    def nearest(query, gallery, chosen):
        distances, indices = pyramid_knn([level * 2 for level in query], gallery, 2, gallery_index=chosen)
        return distances.sqrt(), indices

    found = torch.compile(nearest, fullgraph=True, backend="aot_eager")(query, gallery, chosen)
    for a, b in zip(found, nearest(query, gallery, chosen), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("device", DEVICES)
def test_compiled_knn_follows_a_changing_number_of_queries(device):
    compiled = torch.compile(lambda query, gallery: knn(query, gallery, 3), fullgraph=True, backend="aot_eager", dynamic=True)
    gallery = torch.randn(50, 12, device=device)
    for count in (5, 9, 17):
        query = torch.randn(count, 12, device=device)
        for a, b in zip(compiled(query, gallery), knn(query, gallery, 3), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("device", DEVICES)
def test_an_exported_program_holds_the_search(device):
    class Search(torch.nn.Module):
        def forward(self, query: list[torch.Tensor], gallery: list[torch.Tensor]):
            return pyramid_knn(query, gallery, 1)

    query, gallery, _ = inputs(device)
    program = torch.export.export(Search(), (query, gallery))
    assert any("fastspade.pyramid_knn" in str(node.target) for node in program.graph.nodes)
    for a, b in zip(program.module()(query, gallery), pyramid_knn(query, gallery, 1), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("device", DEVICES)
def test_a_prepared_gallery_gives_the_same_answer(device):
    query, gallery, chosen = inputs(device)
    prepared = PreparedGallery(gallery, upsample="bilinear")
    assert len(prepared) == CASE.images and (device == "cpu") == (prepared.nbytes == 0)
    for a, b in zip(
        pyramid_knn(query, prepared, 2, gallery_index=chosen), pyramid_knn(query, gallery, 2, gallery_index=chosen), strict=True
    ):
        assert torch.equal(a, b)
    assert last_statistics().pairs == CASE.queries * 256 * CASE.chosen * 256


def test_a_prepared_gallery_knows_its_upsampling():
    query, gallery, _ = inputs("cpu")
    with pytest.raises(ValueError, match="upsample must be one of 'nearest', got 'bilinear'"):
        pyramid_knn(query, PreparedGallery(gallery, upsample="nearest"), 1)
