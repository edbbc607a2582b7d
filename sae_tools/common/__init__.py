"""The ground: settings and errors, files that survive a kill, random draws, signals, processes, precision.

Uses no other room; knows no model and no meaning of a tensor. A new setting, and what it may be, goes into `settings`;
a way to write or read files safely into `artifacts` or `formats`; what a stage costs, before it runs, into `costs`.
"""
