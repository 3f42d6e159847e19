"""How fast every op is, against the fastest copy of the same bytes and against other libraries, in one process.

``timing`` measures in turn, ``roofline`` copies, ``peers`` wraps the other libraries, ``suite`` measures a row,
``goals`` says what the rows must show, ``report`` writes and compares, ``plot`` draws. The shapes are those of
``cregkit.verify.shapes``; ``cregkit.commands.bench`` is the command.
"""
