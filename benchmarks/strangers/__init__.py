"""Public networks that are not ours, at real sizes, before and after one line."""
