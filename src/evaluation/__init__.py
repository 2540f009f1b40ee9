"""Predictions in, tables out. Nothing here runs a network."""
