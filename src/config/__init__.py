"""Composing, checking and building: from the words of a command line to objects."""
