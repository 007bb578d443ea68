"""What the three scripts are built from: a room for each job, each with its entry points.

Imports run one way: attack and results -> defences -> networks -> running -> images. None of them
imports a script; the method, utils_sgm.py, branches.py and watching.py, imports torch alone.
"""
