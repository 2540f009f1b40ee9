"""A trained run leaves the house."""
