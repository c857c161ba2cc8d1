"""Model weights: where they are, how they are loaded, and the local replica that runs them. Imports torch lazily."""
