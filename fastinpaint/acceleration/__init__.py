"""What `fastinpaint.accelerate` is made of: swapping layers, borders around them, rules, trials and the report."""
