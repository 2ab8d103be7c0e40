"""What "exact" means, as one assertion that every engine must pass."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fastspade.search import reference


def assert_exact(
    found: tuple[torch.Tensor, torch.Tensor],
    query: Sequence[torch.Tensor],
    gallery: Sequence[torch.Tensor],
    kappa: int,
    *,
    gallery_index: torch.Tensor | None = None,
    upsample: str = "bilinear",
    tolerance: float = 1e-5,
) -> None:
    """Values within `tolerance` of float64 brute force (relative; of the mean squared descriptor norm where the true
    distance is 0), and the same neighbour wherever the float64 gap to the next one is larger than that."""
    distances, indices = (t.detach().cpu() for t in found)
    pixels = gallery[0].shape[2] * gallery[0].shape[3]
    images = gallery[0].shape[0] if gallery_index is None else gallery_index.shape[1]
    extra = min(kappa + 1, images * pixels)
    wanted, places = reference.pyramid_knn(query, gallery, extra, gallery_index=gallery_index, upsample=upsample)
    assert distances.dtype == torch.float32 and indices.dtype == torch.int64
    assert distances.shape == indices.shape == (*query[0].shape[:1], *query[0].shape[2:], kappa)

    stored = reference.descriptors([level.cpu() for level in gallery], upsample)
    centred = stored - stored.mean(dim=(0, 1))
    scale = centred.square().sum(dim=2).mean().item()
    true = wanted[..., :kappa]
    allowed = torch.where(true > 0, tolerance * true, torch.full_like(true, tolerance * scale))
    error = (distances.double() - true).abs()
    assert (error <= allowed + 1e-30).all(), f"largest relative error {(error / allowed.clamp_min(1e-30)).max():.3g} x allowed"
    assert (distances.diff(dim=-1) >= 0).all()

    # A neighbour is certain where both gaps, to the one before and the one after, are wide.
    gap = wanted.diff(dim=-1)
    wide = gap > tolerance * wanted[..., 1:].clamp_min(0)
    edge = torch.ones(*wide.shape[:-1], 1, dtype=torch.bool)
    before = torch.cat([edge, wide[..., : kappa - 1]], dim=-1)
    after = wide if extra > kappa else torch.cat([wide, edge], dim=-1)
    certain = before & after[..., :kappa]
    assert (indices == places[..., :kappa])[certain].all()

    # Every index must really have the distance given for it.
    flat = stored.flatten(0, 1)
    vectors = reference.descriptors([level.cpu() for level in query], upsample).flatten(0, 1)
    named = (flat[indices.reshape(-1, kappa)] - vectors[:, None]).square().sum(-1).reshape(distances.shape)
    close = (named - distances.double()).abs() <= torch.where(
        named > 0, tolerance * named, torch.full_like(named, tolerance * scale)
    )
    assert close.all()
    if gallery_index is not None:
        image = indices // pixels
        assert (image[..., None] == gallery_index.cpu()[:, None, None, None, :]).any(-1).all()
