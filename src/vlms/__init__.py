"""Networks: images and text to text."""
