"""`conv_block`: see `reference` for the equations."""
