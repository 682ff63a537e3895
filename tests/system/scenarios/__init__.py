"""One scenario per file: a docstring whose first line says what the scenario shows, and a function scenario(lab)."""
