"""Pieces of HTML of the tabs Explore and Feature; all text is escaped."""
