"""Tables in, pages and pictures out."""
