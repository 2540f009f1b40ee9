"""Networks that take an image and return a logit: real or generated."""
