"""Exact nearest-neighbour search over pyramids of features: validation, allocation and the engines' front door."""

from fastspade.search.api import SearchStatistics, knn, last_statistics, pyramid_knn
from fastspade.search.prepared import PreparedGallery

__all__ = ["PreparedGallery", "SearchStatistics", "knn", "last_statistics", "pyramid_knn"]
