"""Tools for developers of the project. They are not part of the installed package."""
