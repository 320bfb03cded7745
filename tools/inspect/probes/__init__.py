"""Matrix products that are known to be fast, to validate `sass_bound`."""
