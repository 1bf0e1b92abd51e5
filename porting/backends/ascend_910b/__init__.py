"""Huawei Ascend 910B (Atlas A2, and A3 unless noted)."""

from porting.backends.backend import load_backend

BACKEND = load_backend(__name__)
