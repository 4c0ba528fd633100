"""What the lecture builds with layers: neurons, Boolean functions, regions, approximators."""
