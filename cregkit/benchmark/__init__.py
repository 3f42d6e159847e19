"""The benchmark: every op against memory copies of the same size and against other libraries, in one process.

``timing`` takes interleaved samples, ``roofline`` provides the copies, ``peers`` wraps the other libraries, ``suite``
measures a row, ``goals`` judges the rows, ``report`` writes and compares runs, and ``plot`` draws them. ``cregkit
bench`` runs them all, on the shapes of ``cregkit.verify.shapes``.
"""
