"""Networks of the reviewed systems: one file a system, one generic training module for all of them."""
