"""One module a dataset layout. Each has read(root, wanted, problems) -> list of Category."""
