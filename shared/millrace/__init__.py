"""Millrace: what runs inside the functions and in `millrace serve`.

Rooms import inwards only: ``functions`` import this package, it never imports them.
"""

__version__ = "0.1.0"
