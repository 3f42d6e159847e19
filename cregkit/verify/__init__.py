"""Verification of every op against the float64 oracle.

``cases`` lists the ops. ``inputs`` makes their arguments, ``shapes`` lists the shapes to check and to time, and
``tolerances`` bounds the errors, with reasons. ``parity`` compares all of them on this CPU.
"""
