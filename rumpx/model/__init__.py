"""Plain, frozen data shared by the packages."""
