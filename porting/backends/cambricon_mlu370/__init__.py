"""Cambricon MLU370 (mtp_372)."""

from porting.backends.backend import load_backend

BACKEND = load_backend(__name__)
