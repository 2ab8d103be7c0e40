"""Types of arguments, for annotations of your own: what images, arrays of metrics and options may be."""

from fastspade.evaluate.arrays import Arrays
from fastspade.images.entry import Images, Picture
from fastspade.spade.options import OptionsDict as Options

__all__ = ["Arrays", "Images", "Options", "Picture"]
