"""Checkpoints converted into what runtimes load: streamed by rows, resumable, with a proof of what was written."""
