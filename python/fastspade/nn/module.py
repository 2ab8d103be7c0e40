"""A fitted Spade as a torch.nn.Module."""

from __future__ import annotations

from fastspade.errors import InputError
from fastspade.nn.scorer import Scorer
from fastspade.spade import Spade
from fastspade.spade.leave_one_out import current_ceiling
from fastspade.torch_defaults import torch_defaults


class SpadeModule(Scorer):
    """A fitted Spade as a torch.nn.Module.

    forward(images): (B, 3, H, W) floating in [0, 1], already resized (and cropped), on the module's device -> image_scores (B,)
    float32 and anomaly_maps (B, H, W) float32, where (H, W) is the Spade's input_size. Run eagerly on the CPU they are
    bit-identical to those of Spade.score with keep_crop=True.

    Runs eagerly, under torch.compile(fullgraph=True), and exports with torch.export. The network is copied; the bank's
    tensors are shared where they are on the module's device. Not for image_score="reweighted", a window or per_level, whose work
    depends on the images' content, nor for tiles, which a module would have to cut itself.

    names: of the normal images. Raises InputError where the Spade is not fitted or has one of those options.
    """

    @torch_defaults()
    def __init__(self, model: Spade) -> None:
        if model.bank is None:
            raise InputError("model has no normal images yet; call fit(normal_images) first")
        super().__init__(model)
        bank = model.bank.snapshot
        self.names = bank.names
        self.remember(bank.embeddings, bank.pyramid, model.input_size, current_ceiling(model, bank), model.border)
        self.eval()
