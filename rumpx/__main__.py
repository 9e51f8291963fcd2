"""`python -m rumpx`. Worker processes import this module again, under another name."""

from rumpx.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
