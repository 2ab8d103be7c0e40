"""A bank split over processes, for one that fits no single machine or device (torch.distributed)."""

from fastspade.distributed.bank import ShardedBank
from fastspade.distributed.spade import DistributedSpade

__all__ = ["DistributedSpade", "ShardedBank"]
