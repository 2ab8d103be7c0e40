"""The memory bank: what is kept of the normal images, in memory or in a folder."""

from fastspade.bank.bank import Bank
from fastspade.bank.snapshot import Snapshot

__all__ = ["Bank", "Snapshot"]
