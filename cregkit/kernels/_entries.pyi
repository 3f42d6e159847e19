table: object
"""A capsule of the whole calls for C++: csrc/entries.h."""
