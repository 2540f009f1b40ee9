"""Every choice a user can make, one YAML a choice."""
