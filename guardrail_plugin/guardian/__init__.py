"""The guardian: text to verdict and back. Never imports torch."""
