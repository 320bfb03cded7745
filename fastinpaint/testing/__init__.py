"""What the tests of kernels stand on: no part of the library's own work."""
