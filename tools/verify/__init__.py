"""Tools that check the package."""
