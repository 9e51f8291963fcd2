"""The program in one file: `tox -e binary` builds and tests it."""
