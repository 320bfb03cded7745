"""The parts of `fastinpaint.accelerate`: swapping layers, hooks at their borders, rules, trials and the report."""
