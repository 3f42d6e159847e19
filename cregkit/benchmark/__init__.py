"""How fast every op is, against the fastest copy of the same bytes and against other libraries, in one process.

``timing`` measures in turn, ``roofline`` copies, ``peers`` wraps the other libraries, ``shapes`` lists what is
measured, ``suite`` measures a row, ``goals`` says what the rows must show, ``report`` writes and compares, ``plot``
draws, ``command`` is what ``cregkit bench`` runs.
"""
