"""Plain, frozen data that the parts hand to each other."""
