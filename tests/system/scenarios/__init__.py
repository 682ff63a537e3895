"""One scenario in each file: a docstring whose first line says what is shown, and a function scenario(lab)."""
