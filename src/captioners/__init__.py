"""Networks: image to text; one file an architecture."""
