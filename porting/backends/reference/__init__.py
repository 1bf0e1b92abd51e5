"""This machine: every operator that has a meaning, computed exactly."""

from porting.backends.backend import load_backend

BACKEND = load_backend(__name__)
