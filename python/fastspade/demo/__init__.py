"""`fastspade demo`: the whole job on real photographs, offline."""

from fastspade.demo.run import CategoryReport, run_demo

__all__ = ["CategoryReport", "run_demo"]
