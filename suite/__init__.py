"""What the three scripts are built from: a room for each job.

Imports run one way: attack, results -> defences -> networks -> user_code -> running -> images. No
room imports a script; the method (utils_sgm.py, branches.py, watching.py) imports torch alone.
"""
