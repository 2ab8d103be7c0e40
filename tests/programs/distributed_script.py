"""What every rank of tests/distributed/test_distributed.py runs: `distributed_script.py CASE FOLDER` under torchrun, gloo on loopback."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from tiny import LAYERS, TinyNet, picture, tiny_spade

from fastspade import Bank, Spade
from fastspade.distributed import DistributedSpade, ShardedBank
from fastspade.distributed.ranks import Ranks
from fastspade.errors import ImageReadError, InputError, MissingFileError, RankError

OPTIONS = dict(preset="paper", resize=64, crop=64, sigma=1.0, device="cpu", progress=False, batch_size=4)


def distributed(**options) -> DistributedSpade:
    return DistributedSpade(TinyNet(), layers=LAYERS, **OPTIONS | options)


def assert_same(found, expected) -> None:
    """Two Results, to the bit."""
    assert found.names == expected.names
    assert [image.score for image in found.images] == [image.score for image in expected.images], (
        found.image_scores,
        expected.image_scores,
    )
    for name in ("anomaly_maps", "neighbors", "neighbor_distances", "matched_image", "matched_y", "matched_x"):
        assert np.array_equal(getattr(found, name), getattr(expected, name)), name
    assert [image.threshold for image in found.images] == [image.threshold for image in expected.images]


def same_bits(folder: Path) -> None:
    """Fitted and loaded models of several shapes against one process."""
    rank = dist.get_rank()
    normal, test = str(folder / "normal"), str(folder / "test")
    for options in (
        dict(k=3, kappa=1),
        dict(k=7, kappa=40, upsample="nearest"),  # more images than any rank holds
        dict(k=1, k_image=5, kappa=3, local_average=True, storage_dtype="float16"),  # ranks without any of the K images
        dict(k=4, kappa=1, window=16, image_score="reweighted"),
        dict(k=3, image_score="relative", reflect_border=True),
        dict(k=3, image_score="relative", reflect_border=True, augment="flips"),
        dict(k=2, roi=[(0.2, 0.1), (0.9, 0.1), (0.9, 0.8)], image_score="max"),
        dict(k=2, roi="auto", image_score="max"),
    ):
        whole = tiny_spade(**options).fit(normal)
        split = distributed(**options).fit(normal)
        assert split.bank.names == whole.bank.names and split.bank.ids == whole.bank.ids
        assert max(split.bank.counts) < len(whole.bank)
        assert split.calibrate(0.2, 0.2) == whole.calibrate(0.2, 0.2)
        assert_same(split.score(test if rank == 0 else None), whole.score(test))
    assert split.score(test).images[0].picture is not None
    for saved in folder / f"saved-{dist.get_world_size()}.safetensors", folder / f"saved-{dist.get_world_size()}":
        split.save(saved)
        options = dict(backbone=TinyNet(), device="cpu", batch_size=4, progress=False)
        loaded = DistributedSpade.load(saved, **options)
        assert loaded.bank.counts == split.bank.counts and loaded.threshold == split.threshold
        assert (loaded.bank.local.levels.whole is None) == saved.is_dir()  # in a folder the images stay on disk
        assert_same(loaded.score(test), whole.score(test))
        assert_same(Spade.load(saved, **options).score(test), whole.score(test))
    with pytest.raises(MissingFileError, match="none"):  # rank 0 cannot write: all ranks say so, and go on together
        split.save(folder / "none" / "model")


def uneven(folder: Path) -> None:
    """Ranks with many images, one, and none; duplicates on different ranks, so that distances tie."""
    ranks, test = Ranks(30), [picture(100 + i) for i in range(3)]
    pictures = [picture(i % 4) for i in range(9)]  # images 0, 4 and 8 are alike, and so on
    whole = tiny_spade(k=6, kappa=9).fit(pictures)
    now = whole.bank.snapshot
    for counts in ([8, 1, 0], [0, 1, 8], [0, 9, 0]) if ranks.size == 3 else ([8, 1], [0, 9]):
        start = sum(counts[: ranks.rank])
        mine = torch.arange(start, start + counts[ranks.rank])
        names = [now.names[i] for i in mine.tolist()]
        local = Bank(now.embeddings[mine], now.levels.gather(mine), names, mine.tolist()) if len(mine) else None
        split = distributed(k=6, kappa=9)
        split.bank = ShardedBank(local, ranks)
        assert split.bank.counts == counts and len(split.bank) == 9
        assert_same(split.score(test), whole.score(test))
        assert torch.equal(split.bank.embeddings[torch.tensor([8, 0, 3])], now.embeddings[[8, 0, 3]])
        assert all(torch.equal(a, b) for a, b in zip(split.bank.gathered().pyramid, now.pyramid, strict=True))
    few = distributed(k=1).fit(pictures[:1])  # fewer normal images than ranks
    assert_same(few.score(test), tiny_spade(k=1).fit(pictures[:1]).score(test))


def errors(folder: Path) -> None:
    """A failure on one rank is an error on all, of the same kind, at once; skip_bad leaves out what any rank cannot read."""
    rank = dist.get_rank()
    bad = sorted(map(str, (folder / "normal").glob("*.png"))) + [str(folder / "bad.png")]
    with pytest.raises(ImageReadError, match="bad.png"):
        distributed(k=2).fit(bad)
    split = distributed(k=2).fit(bad, skip_bad=True)
    whole = tiny_spade(k=2).fit(bad[:-1])
    assert len(split.bank) == len(bad) - 1 and [name for name, _ in split.skipped] == bad[-1:]
    with pytest.raises(ImageReadError, match="bad.png"):
        split.score(bad if rank == 0 else "ignored")
    result = split.score([bad[-1], *bad[:2]], skip_bad=True)
    assert [name for name, _ in result.skipped] == bad[-1:]
    assert_same(result, whole.score(bad[:2]))
    if rank:
        with pytest.raises(InputError, match="rank 0"):
            result.images[0].picture()

    def fail() -> None:
        if rank == 1:
            raise MemoryError("no room")

    with pytest.raises(MemoryError if rank == 1 else RankError, match="no room"):
        split.ranks.together("a trial", fail)
    with pytest.raises(InputError, match="window needs kappa=1"):
        distributed(k=2, window=8, kappa=2).fit(bad[:-1]).score(bad[:1])
    with pytest.raises(InputError, match="sharded bank cannot change"):
        split.add(bad[:1])
    with pytest.raises(InputError, match="per_level is not for a bank split over processes"):
        distributed(per_level=True)
    with pytest.raises(InputError, match="timeout"):
        distributed(timeout=0)


def lost(folder: Path, how: str) -> None:
    """Rank 1 dies or stops answering in the middle of a score; the others say so, though rank 1 never answers."""
    split = distributed(k=2).fit(str(folder / "normal"))
    split.ranks = split.bank.ranks = Ranks(5)
    (folder / f"{how}-{dist.get_rank()}").touch()
    if dist.get_rank() == 1:
        if how == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        signal.pause()  # until the test kills it
    with pytest.raises(RankError, match="another process died, or did not answer within 5 s"):
        split.score(str(folder / "test"))
    (folder / f"{how}-{dist.get_rank()}-told").touch()
    os._exit(0)  # without waiting for the lost rank


if __name__ == "__main__":
    dist.init_process_group("gloo")
    case, place = sys.argv[1], Path(sys.argv[2])
    if case in ("dies", "stops"):
        lost(place, case)
    for name in case.split(","):
        {"same_bits": same_bits, "uneven": uneven, "errors": errors}[name](place)
    (place / f"passed-{dist.get_rank()}").touch()
    dist.destroy_process_group()
