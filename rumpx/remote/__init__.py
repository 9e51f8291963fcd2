"""Walks on other machines, by Dask (extra `rumpx[dask]`)."""
