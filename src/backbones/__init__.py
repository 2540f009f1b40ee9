"""Trunks and towers that networks stand on: building, loading, freezing."""
