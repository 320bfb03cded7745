"""Differentiable operations, one room each: `activation`, `conv_block`, `masked_l1`."""
