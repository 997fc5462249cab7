"""Benchmarks that reproduce the literature: ``lowerconv bench``.

The way of a figure, from the shapes of a layer to a table::

    cases/, published/    shapes and published figures, as data
      -> passes.py        the calls that are timed
      -> case.py          candidates that do the same work
      -> interleaved.py   ... take turns
      -> study.py         a table of the literature: its cases, measured; peak.py, bandwidth.py and
                          load.py tell what the machine could have given
      -> result.py        times, and what follows from them
      -> show.py, draw.py, store.py, compare.py

`tables.py` lists the tables, one file each.
"""
