"""Every op against the float64 oracle.

``cases`` lists the ops, ``inputs`` makes their arguments, ``shapes`` says on which shapes they are checked and timed,
``tolerances`` how far a result may be from the oracle's and why, ``parity`` compares on this CPU.
"""
