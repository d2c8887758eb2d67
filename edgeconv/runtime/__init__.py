"""Loading and running models, one module a runtime."""
