"""Lets tests in the folders below import the helper modules beside this file."""
