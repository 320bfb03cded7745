"""`downsample`: see `reference` for the equations."""
