"""The published evaluation of a system, study by study, beside the network's own table."""
