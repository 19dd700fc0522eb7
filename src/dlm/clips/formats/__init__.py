"""How people keep recordings and what is said in them: one function a format."""
