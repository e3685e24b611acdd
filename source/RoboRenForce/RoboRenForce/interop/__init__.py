"""Drop-in replacements for parts of other libraries."""
