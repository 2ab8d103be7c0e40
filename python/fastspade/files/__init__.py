"""Writing files whole, ending in an orderly way, telling progress: nothing here knows of images or SPADE."""
