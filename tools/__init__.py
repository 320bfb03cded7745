"""What verifies, inspects and measures the package; not in the wheel."""
