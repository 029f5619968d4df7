"""Everything that a user may set: frozen dataclasses, each setting declared once."""
