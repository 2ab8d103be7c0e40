"""The windowed search against brute force over every pair, with the pairs outside the window struck out."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from fastspade.errors import DtypeError, InputError
from fastspade.search import pyramid_knn
from fastspade.search.levels import MemoryLevels
from fastspade.search.windowed import windowed_pyramid_knn


def brute(query, gallery, kappa, radius, chosen, upsample):
    def flat(levels):
        size = levels[0].shape[2:]
        more = {"align_corners": False} if upsample == "bilinear" else {}
        whole = torch.cat([F.interpolate(level.double(), size=size, mode=upsample, **more) for level in levels], dim=1)
        return whole.flatten(2).transpose(1, 2)

    height, width = query[0].shape[2:]
    y, x = torch.arange(height * width) // width, torch.arange(height * width) % width
    near = ((y[:, None] - y).abs() <= radius[0]) & ((x[:, None] - x).abs() <= radius[1])
    mine, theirs = flat(query), flat(gallery)
    found = []
    for b in range(len(mine)):
        images = chosen[b].sort().values
        squared = torch.stack([(mine[b][:, None] - theirs[i]).square().sum(-1).masked_fill(~near, torch.inf) for i in images], 1)
        best = squared.flatten(1).sort(dim=1, stable=True)
        place = best.indices[:, :kappa]
        flat_index = images[place // (height * width)] * height * width + place % (height * width)
        found.append((best.values[:, :kappa], flat_index))
    shape = (len(mine), height, width, kappa)
    return tuple(torch.stack([one[i] for one in found]).view(shape) for i in (0, 1))


def pyramid(images: int, seed: int, height: int, width: int, repeat: bool = False) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    levels = [torch.randn(images, 5 + i, max(1, height >> i), max(1, width >> i), generator=generator) for i in range(3)]
    return [level[:1].repeat(images, 1, 1, 1) if repeat else level for level in levels]


@pytest.mark.parametrize("upsample", ["bilinear", "nearest"])
@pytest.mark.parametrize(
    ("size", "radius", "kappa", "repeat"),
    [((11, 18), (2, 3), 1, False), ((16, 9), (0, 0), 2, False), ((17, 17), (1, 5), 4, True), ((8, 8), (30, 30), 3, False)],
)
def test_it_is_the_masked_search(size, radius, kappa, repeat, upsample):
    query, gallery = pyramid(3, 0, *size), pyramid(4, 1, *size, repeat=repeat)
    chosen = torch.tensor([[3, 1], [0, 2], [1, 2]])
    found = windowed_pyramid_knn(query, gallery, kappa, radius, gallery_index=chosen, upsample=upsample)
    wanted = brute(query, gallery, kappa, radius, chosen, upsample)
    torch.testing.assert_close(found[0], wanted[0].float(), rtol=1e-6, atol=1e-6)
    assert torch.equal(found[1], wanted[1])  # repeated images tie everywhere: the lower index first


def test_features_far_from_zero_lose_no_digits():
    query, gallery = pyramid(1, 2, 12, 12), pyramid(2, 3, 12, 12)
    query, gallery = ([level * 1e-2 + 300 for level in levels] for levels in (query, gallery))
    chosen = torch.tensor([[0, 1]])
    found, wanted = windowed_pyramid_knn(query, gallery, 2, (3, 3)), brute(query, gallery, 2, (3, 3), chosen, "bilinear")
    assert torch.equal(found[1], wanted[1])
    torch.testing.assert_close(found[0], wanted[0].float(), rtol=1e-6, atol=0)


def test_a_window_as_large_as_the_image_is_the_full_search():
    query, gallery = pyramid(2, 4, 10, 13), pyramid(3, 5, 10, 13)
    full, windowed = pyramid_knn(query, gallery, 3), windowed_pyramid_knn(query, gallery, 3, (10, 13))
    assert torch.equal(full[1], windowed[1])
    torch.testing.assert_close(full[0], windowed[0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("kappa", "radius", "error", "says"),
    [(9, (1, 1), InputError, "kappa"), (1, (-1, 0), InputError, "radius"), (1, (1.5, 1), DtypeError, "radius")],
)
def test_mistakes_are_named(kappa, radius, error, says):
    with pytest.raises(error, match=says):
        windowed_pyramid_knn(pyramid(1, 0, 8, 8), pyramid(2, 0, 8, 8), kappa, radius)


def test_a_gallery_image_that_does_not_exist_is_named():
    with pytest.raises(InputError, match="images 0 to 1, got 0 to 2"):
        windowed_pyramid_knn(pyramid(1, 0, 8, 8), pyramid(2, 0, 8, 8), 1, (1, 1), gallery_index=torch.tensor([[0, 2]]))


@pytest.mark.slow
@pytest.mark.parametrize(
    "shapes", [[(9, 21, 19)], [(30, 24, 24), (28, 24, 24), (20, 12, 12)], [(24, 33, 21), (26, 17, 11), (31, 16, 5)]]
)
def test_one_level_equal_levels_and_odd_levels(shapes):
    generator = torch.Generator().manual_seed(6)
    query, gallery = ([torch.randn(n, *shape, generator=generator) for shape in shapes] for n in (2, 5))
    gallery[0][:, :, 3:9] = gallery[0][:1, :, 3:4, :1]  # a crowd of equal pixels, of which only some are in a window
    chosen = torch.tensor([[4, 1, 0], [0, 2, 3]])
    for kappa in (1, 5):
        found = windowed_pyramid_knn(query, gallery, kappa, (3, 2), gallery_index=chosen)
        wanted = brute(query, gallery, kappa, (3, 2), chosen, "bilinear")
        torch.testing.assert_close(found[0], wanted[0].float(), rtol=1e-6, atol=1e-5)
        assert torch.equal(found[1], wanted[1])


class Unread(MemoryLevels):
    """Levels that are not in memory as far as a search can tell."""

    def __init__(self, levels):
        super().__init__(levels)
        self.levels, self.whole = self.whole, None

    def __len__(self):
        return len(self.levels[0])

    def gather(self, images):
        return [level[images] for level in self.levels]


@pytest.mark.parametrize("chosen", [[[5, 1, 0], [0, 2, 3], [5, 4, 3]], [[5, 1, 5], [0, 0, 0], [3, 4, 4]]])
def test_a_gallery_read_in_parts_gives_the_same_bits(monkeypatch, chosen):
    query, gallery, chosen = pyramid(3, 7, 12, 15), pyramid(6, 8, 12, 15), torch.tensor(chosen)
    whole = windowed_pyramid_knn(query, gallery, 12, (1, 2), gallery_index=chosen)
    monkeypatch.setattr("fastspade.search.windowed.PART_BYTES", 1)  # an image at a time: six pixels a corner, twelve wanted
    parts = windowed_pyramid_knn(query, Unread(gallery), 12, (1, 2), gallery_index=chosen)
    assert torch.equal(whole[0], parts[0]) and torch.equal(whole[1], parts[1])
