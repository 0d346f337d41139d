"""Memory banks: fitted, imported, stored, loaded and checked."""
