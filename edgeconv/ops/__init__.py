"""The operators: a module holds a definition; suffixes name its forms (`_torch`, `_function`, `_schema`)."""
