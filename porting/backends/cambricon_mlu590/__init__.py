"""Cambricon MLU590 (mtp_592)."""

from porting.backends.backend import load_backend

BACKEND = load_backend(__name__)
