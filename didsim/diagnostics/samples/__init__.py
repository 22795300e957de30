"""What a table of samples shows.

estimate  the DID entropy and the fall to be expected, from samples
table     a table of samples, from file to findings
"""
