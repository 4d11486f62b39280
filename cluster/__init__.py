"""Clusters: from a profile to a Dask client.  Stands alone: nothing in `factory` imports it but the command line."""
