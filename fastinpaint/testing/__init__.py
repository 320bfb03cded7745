"""What tests and benchmarks share: the rule of exactness and the generator of cases."""
