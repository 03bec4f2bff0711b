"""Janus, Emu3 and Chameleon models of the transformers library as generators: their trunks run unmodified.

Importing this package imports none of them.
"""
