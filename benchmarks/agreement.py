"""Which of the neighbours found are float64's."""

from __future__ import annotations

import torch
from features import Pyramid
from timing import Contenders

from fastspade.search import reference

ONE_ULP = 1 + 2.0**-23  # distances equal as float32 are ties by fastspade's contract


def float64_shares(contenders: Contenders, query: Pyramid, gallery: Pyramid, kappa: int, upsample: str) -> dict[str, float]:
    """Of each contender the share of neighbours of the first query image as near as float64's: its j-th nearest found beside the
    j-th nearest there is. Image by image, so that no more than one image's distances are held."""
    device = query[0].device
    wanted = reference.descriptors([level[:1] for level in query], upsample)[0]
    rows, pixels = len(wanted), gallery[0].shape[2] * gallery[0].shape[3]
    found = {name: call()[:rows].to(device) for name, call in contenders.items()}
    reached = {name: torch.full((rows, kappa), torch.inf, dtype=torch.float64, device=device) for name in found}
    nearest = torch.full((rows, 0), 0.0, dtype=torch.float64, device=device)
    block = max(1, (1 << 27) // pixels)  # 1 GiB of distances
    norms = wanted.square().sum(1)
    floor = 1e-12 * norms.max()  # what cancels where vectors are equal
    for image in range(len(gallery[0])):
        stored = reference.descriptors([level[image : image + 1].to(device) for level in gallery], upsample)[0]
        kept = []
        for start in range(0, rows, block):
            part = slice(start, start + block)
            distances = torch.addmm(stored.square().sum(1)[None] + norms[part, None], wanted[part], stored.t(), alpha=-2).clamp_(
                min=0
            )
            kept.append(distances.topk(min(kappa, pixels), largest=False).values)
            for name, places in found.items():
                here = places[part] // pixels == image
                # "at" may point elsewhere where the neighbour is in another image; it is not taken then.
                value = distances.gather(1, (places[part] % pixels).clamp(min=0))
                reached[name][part] = torch.where(here, value, reached[name][part])
        nearest = torch.cat([nearest, torch.cat(kept)], 1).sort(1).values[:, :kappa]
    return {name: ((got.sort(1).values <= nearest * ONE_ULP + floor).double().mean().item()) for name, got in reached.items()}
