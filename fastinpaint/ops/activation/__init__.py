"""`activation`: see `reference` for the equations."""
