"""A network, an index, a loss and a metric of one's own; docs/own_code.md of tapetum walks through them."""
