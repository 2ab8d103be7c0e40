"""Anomaly maps: upsampled, smoothed, placed in the original image, coloured, drawn and written."""

from fastspade.maps.colors import color_table, heatmap
from fastspade.maps.draw import colorbar, overlay
from fastspade.maps.process import BORDERS, place_in_image, smooth, upsample

__all__ = ["BORDERS", "color_table", "colorbar", "heatmap", "overlay", "place_in_image", "smooth", "upsample"]
