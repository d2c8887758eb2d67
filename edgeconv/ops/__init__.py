"""The operators: one module holds an operator's definition; suffixes name its forms (`_torch`, `_function`, `_schema`)."""
