"""What the model hears."""
