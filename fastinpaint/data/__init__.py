"""Reading video, cutting it into training samples, and drawing holes."""
