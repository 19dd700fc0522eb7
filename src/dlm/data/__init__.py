"""Examples, audio input, scanning, checks, splits and export."""
