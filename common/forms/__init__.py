"""The launch forms: their fields by stable names, what they write, and what is read back."""
