"""Pages for people, in the browser: what the archive has, and what they say of it."""
