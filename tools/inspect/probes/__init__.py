"""Products of matrices that are known to be fast, to hold `sass_bound` against."""
