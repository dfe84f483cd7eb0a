"""The parts of the documentation that are written from result files.

``python docs/tables`` rewrites them, ``python docs/tables --check`` says which are out of date. One
module per package knows the tables of its pages; ``evidence`` knows those of the evidence page and
of the README.
"""
