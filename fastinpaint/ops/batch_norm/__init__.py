"""`batch_norm`: from a channel's statistics to the scale and shift that apply it. See `reference` for the equations."""
