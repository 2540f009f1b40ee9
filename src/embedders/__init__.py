"""Networks: image to unit vector; one file an architecture."""
