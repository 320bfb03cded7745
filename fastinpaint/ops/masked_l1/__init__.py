"""`masked_l1`: see `reference` for the equations."""
