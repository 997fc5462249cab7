"""Groups of very few channels: planes, and nothing to pack."""
