"""One module per dataset layout. Each has read(root, wanted, problems) -> list of Category."""
