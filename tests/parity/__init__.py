"""Parity with official implementations: `python -m tests.parity SYSTEM FOLDER`."""
