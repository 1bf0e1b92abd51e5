"""Ports of Python surfaces on a device: the interpreter with its vendor nodes bound to the vendor's own calls."""
