"""How clips ride together."""
