"""What lies on a disk becomes an Index: one file a layout, one a table, one that builds."""
