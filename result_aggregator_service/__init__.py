"""Folds what HuleEdu's services announce about essay batches into one read model, answers for it, announces results."""

__version__ = "1.0.0"
