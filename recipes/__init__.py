"""Recipes: one YAML file a data set, read top to bottom like the methods section of a paper.  No code lives here."""
