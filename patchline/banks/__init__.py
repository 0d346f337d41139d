"""Memory banks: made, kept, loaded and checked."""
